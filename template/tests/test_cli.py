"""The commands, in this process."""

import gc
import json
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from app import __main__, cli, main
from app.cli import add_commands
from tests.commands import run_command
from tests.conftest import ROOT


def test_commands_run_with_the_garbage_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    enabled = []
    monkeypatch.setattr(cli, "main", lambda: enabled.append(gc.isenabled()))
    monkeypatch.setattr(gc, "freeze", lambda: None)
    __main__.main()
    assert enabled == [True]


def test_check_passes_in_a_working_environment(environment: dict[str, str]) -> None:
    result = run_command("check", env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    for name in ("settings", "database", "connections", "migrations", "redis"):
        assert f"ok  {name}" in result.stdout


@pytest.mark.parametrize(
    ("variable", "value", "failed"),
    [
        ("DATABASE_URL", "postgresql+asyncpg://127.0.0.1:9/app", "database"),
        ("REDIS_URL", "redis://127.0.0.1:9/0", "redis"),
        ("WEB_CONCURRENCY", "500", "connections"),
        ("DB_STATEMENT_TIMEOUT", "60", "timeouts"),
    ],
)
def test_check_names_the_failed_check(
    environment: dict[str, str], variable: str, value: str, failed: str
) -> None:
    result = run_command("check", env={**environment, variable: value})
    assert result.returncode == 1
    assert f"failed  {failed}" in result.stdout


@pytest.mark.parametrize(
    ("processes", "variables", "message"),
    [
        ("500", {}, "500 processes x 10 connections = 5000, but Postgres allows"),
        ("2", {"MAX_REPLICAS": "50"}, "50 replicas x 2 processes x 10 connections = 1000, but"),
        ("1", {"DB_RESERVED_CONNECTIONS": "999"}, "of which DB_RESERVED_CONNECTIONS=999 are"),
    ],
)
def test_check_explains_more_connections_than_postgres_allows(
    environment: dict[str, str], processes: str, variables: dict[str, str], message: str
) -> None:
    result = run_command("check", env={**environment, "WEB_CONCURRENCY": processes, **variables})
    assert result.returncode == 1
    assert message in result.stdout


@pytest.mark.skipif(
    not any((ROOT / "migrations" / "versions").glob("*.py")), reason="there are no migrations yet"
)
def test_check_reports_pending_migrations(
    environment: dict[str, str], server_urls: dict[str, str]
) -> None:
    result = run_command("check", env={**environment, "DATABASE_URL": server_urls["DATABASE_URL"]})
    assert "run `app migrate`" in result.stdout
    assert result.returncode == 1


@pytest.mark.parametrize("command", ["migrate", "check"])
def test_an_invalid_environment_starts_nothing(command: str) -> None:
    result = run_command(command, env={"SECRET_KEY": "change-me", "PORT": "x"})
    assert result.returncode != 0
    assert result.stderr.startswith("Invalid settings; nothing was started:")
    for variable in ("SECRET_KEY", "PORT", "DATABASE_URL", "REDIS_URL"):
        assert f"  {variable}: " in result.stderr


def test_a_command_without_settings_names_those_of_a_running_app_dev(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setattr("sys.argv", ["app", "migrate", "a b"])
    monkeypatch.setattr(cli.logs, "use_stderr", lambda: None)  # it would outlive this test

    def hints() -> bool:
        with pytest.raises(SystemExit):
            cli.main()
        command = "uv run --env-file .local/environment app migrate 'a b'"
        return command in capsys.readouterr().err

    assert not hints()
    (tmp_path / ".local").mkdir()
    (tmp_path / ".local/environment").touch()
    assert hints()


@pytest.mark.parametrize("port", ["0", "70000", "http"])
def test_an_impossible_port_is_refused(port: str) -> None:
    result = run_command("dev", "--port", port, env={})
    assert result.returncode == 2
    assert "Invalid value for '--port'" in result.stderr


def test_a_migration_has_to_say_what_it_does() -> None:
    refused = run_command("migration", " ", env={})
    assert refused.returncode == 2
    assert "Give a message that says what it does" in refused.stderr


def test_a_component_can_add_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    component = SimpleNamespace(add_commands=lambda group: group.command("toy")(lambda: None))
    monkeypatch.setattr(main, "COMPONENTS", (SimpleNamespace(), component))
    group = click.Group()
    add_commands(group)

    assert list(group.commands) == ["toy"]


def test_openapi_needs_no_environment() -> None:
    result = run_command("openapi", env={})
    assert json.loads(result.stdout)["openapi"].startswith("3.")
