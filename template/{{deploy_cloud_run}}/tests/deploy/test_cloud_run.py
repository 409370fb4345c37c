"""Cloud Run's documents agree with the service: settings, commands, times, secrets, pages."""

import importlib
import re
from typing import Any

import click
import httpx2
import pytest
import yaml
from pydantic import SecretStr

from app.cli import cli
from app.platform import jobs
from app.platform.server.gunicorn_worker import LIFESPAN_TIMEOUT
from app.settings import Settings
from tests.conftest import ROOT
from tests.required import REQUIRED
from tests.timeouts import rows

Document = dict[str, Any]
KILLED_AFTER = 10  # seconds between SIGTERM and SIGKILL
FIELDS = {name.upper(): field for name, field in Settings.model_fields.items()}
SECRETS = {n for n, f in FIELDS.items() if f.annotation in (SecretStr, SecretStr | None)}
DOCUMENTS: list[Document] = list(yaml.safe_load_all((ROOT / "deploy/run.yaml").read_text()))
# https://docs.cloud.google.com/run/docs/reference/yaml/v1
KINDS = {
    "Job": "run.googleapis.com/v1",
    "Service": "serving.knative.dev/v1",
    "WorkerPool": "run.googleapis.com/v1",
}
ANNOTATIONS = {
    "autoscaling.knative.dev/maxScale",
    "autoscaling.knative.dev/minScale",
    "run.googleapis.com/cpu-throttling",
    "run.googleapis.com/execution-environment",
    "run.googleapis.com/ingress",
    "run.googleapis.com/invoker-iam-disabled",
    "run.googleapis.com/manualInstanceCount",
    "run.googleapis.com/network-interfaces",
    "run.googleapis.com/scalingMode",
    "run.googleapis.com/startup-cpu-boost",
    "run.googleapis.com/vpc-access-egress",
}


def spec_of(document: Document) -> Document:
    """Return the object that contains the container."""
    spec: Document = document["spec"]["template"]["spec"]
    return spec["template"]["spec"] if document["kind"] == "Job" else spec


def environment(document: Document) -> dict[str, str]:
    return {each["name"]: each["value"] for each in spec_of(document)["containers"][0]["env"]}


[SERVICE] = [document for document in DOCUMENTS if document["kind"] == "Service"]
API = spec_of(SERVICE)["containers"][0]


@pytest.fixture(params=DOCUMENTS, ids=lambda document: document["metadata"]["name"])
def document(request: pytest.FixtureRequest) -> Document:
    document: Document = request.param
    return document


def test_migrations_come_first_and_every_process_runs_once() -> None:
    commands = [spec_of(each)["containers"][0]["args"][0] for each in DOCUMENTS]
    assert commands[:2] == ["migrate", "serve"]
    assert sorted(commands[2:]) == sorted(jobs.BACKGROUND_PROCESSES)
    known = click.Group(commands=dict(cli.commands))
    jobs.add_commands(known)
    assert set(commands) <= set(known.commands)


def test_documents_have_existing_kinds_and_versions(document: Document) -> None:
    assert document["apiVersion"] == KINDS[document["kind"]]
    annotations = document["metadata"].get("annotations", {})
    annotations = annotations | document["spec"]["template"]["metadata"]["annotations"]
    assert set(annotations) <= ANNOTATIONS
    assert all(isinstance(value, str) for value in annotations.values())


def test_variables_are_settings_with_valid_values(document: Document) -> None:
    values = environment(document)
    plain = {n: value for n, value in values.items() if not n.endswith("_FILE")}
    assert plain.pop("GUNICORN_CMD_ARGS")
    assert set(plain) - set(FIELDS) == set()
    assert plain["ENVIRONMENT"] == "${ENVIRONMENT}"
    plain["ENVIRONMENT"] = "production"
    plain = {n: value.replace("${DOMAIN}", "api.example.com") for n, value in plain.items()}
    given = {name: value for name, value in plain.items() if value}
    assert Settings(**{name.lower(): value for name, value in (REQUIRED | given).items()})


def test_secrets_are_files_from_secret_manager_only(document: Document) -> None:
    values = environment(document)
    files = {n.removesuffix("_FILE"): v for n, v in values.items() if n.endswith("_FILE")}
    assert {n for n, field in FIELDS.items() if field.is_required()} <= set(files) <= SECRETS
    assert SECRETS & set(values) == set()
    spec = spec_of(document)
    paths = {each["name"]: each["mountPath"] for each in spec["containers"][0]["volumeMounts"]}
    mounted = {
        f"{paths[volume['name']]}/{item['path']}"
        for volume in spec["volumes"]
        for item in volume["secret"]["items"]
    }
    assert set(files.values()) == mounted


def test_the_service_stops_before_it_is_killed(document: Document) -> None:
    values = environment(document)
    match = re.fullmatch(r"--graceful-timeout=(\d+)", values["GUNICORN_CMD_ARGS"])
    assert match
    graceful = int(match[1])
    in_flight = graceful - float(values["DRAIN_SECONDS"]) - LIFESPAN_TIMEOUT
    assert 1 <= in_flight < graceful < KILLED_AFTER
    if "worker_shutdown_timeout" in Settings.model_fields:
        watchdog = importlib.import_module("app.platform.jobs.watchdog")
        released = float(values["WORKER_SHUTDOWN_TIMEOUT"]) + watchdog.RELEASE_MARGIN
        assert released < KILLED_AFTER


def test_background_tasks_have_a_cpu() -> None:
    annotations = SERVICE["spec"]["template"]["metadata"]["annotations"]
    assert annotations["run.googleapis.com/cpu-throttling"] == "false"


def test_cloud_run_scales_before_the_service_sheds_load() -> None:
    concurrency = spec_of(SERVICE)["containerConcurrency"]
    assert concurrency < int(environment(SERVICE)["MAX_IN_FLIGHT"])


def test_cloud_run_leaves_time_outs_to_the_service() -> None:
    # https://docs.cloud.google.com/run/docs/configuring/request-timeout: an hour at most, until the
    # last byte of a response, of a stream as well.
    assert FIELDS["REQUEST_TIMEOUT"].default < spec_of(SERVICE)["timeoutSeconds"] == 3600


def test_the_page_of_time_outs_has_those_of_the_document() -> None:
    page = rows()
    timeout = spec_of(SERVICE)["timeoutSeconds"]
    assert page["deploy/run.yaml: timeoutSeconds"].seconds == timeout
    graceful = page["deploy/run.yaml: --graceful-timeout"]
    assert environment(SERVICE)["GUNICORN_CMD_ARGS"] == f"--graceful-timeout={graceful.seconds:g}"
    assert str(KILLED_AFTER) in graceful.order


def test_the_defaults_fit_a_postgres_with_100_connections() -> None:
    values = environment(SERVICE)
    each = int(values["DB_POOL_SIZE"])
    annotations = SERVICE["spec"]["template"]["metadata"]["annotations"]
    most = int(annotations["autoscaling.knative.dev/maxScale"])
    assert values["MAX_REPLICAS"] == str(most)
    pools = [document for document in DOCUMENTS if document["kind"] == "WorkerPool"]
    count = "run.googleapis.com/manualInstanceCount"
    beside = sum(2 * each * int(pool["metadata"]["annotations"][count]) for pool in pools)
    others = most * each + beside + 1 + 5  # the old version, migrations, psql and backups
    assert others <= int(values["DB_RESERVED_CONNECTIONS"]) <= 100 - most * each


async def test_probes_use_existing_routes(client: httpx2.AsyncClient) -> None:
    port = FIELDS["PORT"].default
    assert [each["containerPort"] for each in API["ports"]] == [port]
    assert environment(SERVICE)["METRICS_PORT"] != str(port)
    for name in ("startupProbe", "livenessProbe"):
        probe = API[name]
        assert probe["httpGet"]["port"] == port
        assert probe["timeoutSeconds"] <= probe["periodSeconds"]
        assert (await client.get(probe["httpGet"]["path"])).status_code == 200
