"""Hints about misspelt variables. Those about renamed ones: test_renamed.py."""

import json
from pathlib import Path

import pytest
from fastapi import FastAPI

from app.platform.observability import logs
from app.platform.settings import SettingsError, load_settings
from app.platform.settings.hints import misspelling_hints
from app.settings import Settings
from tests.commands import run_command
from tests.required import REQUIRED

# What shells, languages, containers, platforms and CI set, and what other programs read.
USUAL = """
    PATH HOME USER LOGNAME SHELL PWD OLDPWD LANG LANGUAGE LC_ALL LC_CTYPE TZ TERM COLORTERM
    EDITOR PAGER DISPLAY HOSTNAME HOST PORT SHLVL TMPDIR SSH_AUTH_SOCK SSH_CONNECTION
    XDG_RUNTIME_DIR NO_COLOR FORCE_COLOR HTTP_PROXY HTTPS_PROXY NO_PROXY SSL_CERT_FILE
    SSL_CERT_DIR REQUESTS_CA_BUNDLE PYTHONPATH PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE
    PYTHONHASHSEED VIRTUAL_ENV UV_CACHE_DIR UV_LINK_MODE GUNICORN_CMD_ARGS
    PROMETHEUS_MULTIPROC_DIR DEBUG LOGGING LOG_FORMAT LOG_FILE DATABASE_HOST DATABASE_PORT
    DATABASE_NAME DATABASE_USER DATABASE_PASSWORD DB_HOST DB_PORT DB_NAME DB_USER DB_PASSWORD
    POSTGRES_HOST POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB PGHOST PGPORT PGUSER PGPASSWORD
    PGDATABASE PGSSLMODE REDIS_HOST REDIS_PORT REDIS_PASSWORD REDIS_PORT_6379_TCP
    REDIS_SERVICE_HOST REDIS_SERVICE_PORT SMTP_HOST SMTP_PORT SMTP_USER SECRET API_KEY POD_NAME
    POD_NAMESPACE NODE_NAME AWS_REGION AWS_DEFAULT_REGION AWS_ACCESS_KEY_ID
    AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_LAMBDA_FUNCTION_NAME AWS_EXECUTION_ENV
    ECS_CONTAINER_METADATA_URI_V4 K_SERVICE K_REVISION GOOGLE_APPLICATION_CREDENTIALS
    GOOGLE_CLOUD_PROJECT DYNO WEBSITE_HOSTNAME RAILWAY_ENVIRONMENT CI CI_COMMIT_SHA
    CI_PROJECT_NAME CI_JOB_TOKEN RUNNER_OS OTEL_SDK_DISABLED OTEL_PROPAGATORS OTEL_LOGS_EXPORTER
    OTEL_METRICS_EXPORTER OTEL_TRACES_EXPORTER OTEL_EXPORTER_OTLP_PROTOCOL
    OTEL_EXPORTER_OTLP_TIMEOUT OTEL_EXPORTER_OTLP_LOGS_ENDPOINT
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT OTEL_EXPORTER_OTLP_TRACES_HEADERS OTEL_TRACES_SAMPLER
    OTEL_TRACES_SAMPLER_ARG OTEL_SERVICE_NAME OTEL_RESOURCE_ATTRIBUTES DD_AGENT_HOST DD_ENV
    DD_SERVICE SENTRY_DSN SENTRY_ENVIRONMENT DJANGO_SETTINGS_MODULE FLASK_ENV APP_ENV APP_NAME
    APP_VERSION DEPLOY_ENVIRONMENT API_PORT IMAGE DOMAIN CREATED VERSION REVISION
    COMPOSE_PROJECT_NAME DOCKER_HOST
"""


@pytest.fixture(autouse=True)
def _required_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("LOG_LEVL", "LOG_LEVEL"),
        ("LOG_LEVELS", "LOG_LEVEL"),
        ("LOG-LEVEL", "LOG_LEVEL"),
        ("log_lvel", "LOG_LEVEL"),
        ("LGO_LEVEL", "LOG_LEVEL"),
        ("WEB_CONCURENCY", "WEB_CONCURRENCY"),
        ("MIGRATON_DATABASE_URL_FILE", "MIGRATION_DATABASE_URL_FILE"),
    ],
)
def test_one_typo_is_a_hint(monkeypatch: pytest.MonkeyPatch, given: str, meant: str) -> None:
    monkeypatch.setenv(given, "1")
    hint = f"{given.upper()} is not a setting: did you mean {meant}?"
    assert misspelling_hints(Settings) == [hint]


def test_a_typo_in_a_dotenv_file_is_a_hint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LOG_LEVL=DEBUG\nHARBOUR=Bremen\n")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    assert misspelling_hints(Settings) == ["LOG_LEVL is not a setting: did you mean LOG_LEVEL?"]


@pytest.mark.parametrize("settings_are_set", [False, True])
def test_usual_variables_are_no_hint(
    monkeypatch: pytest.MonkeyPatch, settings_are_set: bool
) -> None:
    set_as_well = map(str.upper, Settings.model_fields) if settings_are_set else ()
    for name in (*USUAL.split(), *set_as_well):
        monkeypatch.setenv(name, "1")
    assert misspelling_hints(Settings) == []


def test_a_variable_beside_the_setting_that_it_resembles_is_no_hint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOG_LEVEL", "INFO")
    monkeypatch.setenv("LOG_LEVELS", "another program's")
    assert misspelling_hints(Settings) == []


def test_a_missing_setting_comes_with_the_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("DATABSE_URL", "postgresql://db/x")
    with pytest.raises(SettingsError) as error:
        load_settings(Settings)
    assert "  DATABASE_URL: is missing" in str(error.value)
    assert "  DATABSE_URL is not a setting: did you mean DATABASE_URL?" in str(error.value)


def test_the_startup_log_has_the_hint(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOG_LEVL", "DEBUG")
    logs.setup(FastAPI(), load_settings(Settings))
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [
        ("warning", "LOG_LEVL is not a setting: did you mean LOG_LEVEL?")
    ]


def test_app_check_has_the_hint(environment: dict[str, str]) -> None:
    result = run_command("check", env={**environment, "LOG_LEVL": "DEBUG"})
    assert result.returncode == 0
    assert "warning  settings     LOG_LEVL is not a setting: did you mean" in result.stdout
