"""The manifests agree with the service: names exist, and numbers are consistent.

`kubectl apply --dry-run=server -k ...` checks that they are valid.
"""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import click
import httpx2
import pytest
import yaml

from app.cli import cli
from app.platform import jobs
from app.platform.http.access_log import PROBE_PATHS
from app.platform.jobs import registry
from app.settings import Settings, get_settings
from tests.conftest import ROOT, running_app
from tests.timeouts import rows

FOLDER = ROOT / "deploy/kubernetes"
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
SECRETS = "/run/secrets/service"
# Labels that Prometheus adds to each metric.
ADDED = {"namespace", "pod", "rollouts_pod_template_hash"}
# Postgres' default ``max_connections``, less what is reserved for superusers.
POSTGRES_ALLOWS = 97

Json = dict[str, Any]


def documents(folder: str) -> Iterator[Json]:
    """Yield the documents in the files of a folder."""
    for path in sorted((FOLDER / folder).rglob("*.yaml")):
        yield from filter(None, yaml.safe_load_all(path.read_text(encoding="utf-8")))


def named(kind: str, folder: str = ".") -> dict[str, Json]:
    """Return the objects of a kind, by name."""
    found = (each for each in documents(folder) if each["kind"] == kind)
    return {each["metadata"]["name"]: each for each in found if "metadata" in each}


def pod(workload: Json) -> Json:
    spec: Json = workload["spec"]["template"]["spec"]
    return spec


def container(workload: Json) -> Json:
    [only] = pod(workload)["containers"]
    found: Json = only
    return found


def ports(workload: Json) -> dict[str, int]:
    return {each["name"]: each["containerPort"] for each in container(workload).get("ports", [])}


def environment(overlay: str) -> dict[str, str]:
    """Return the environment variables of the service in an overlay."""
    files = (FOLDER / "base/settings.env", FOLDER / "overlays" / overlay / "settings.env")
    lines = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return dict(re.findall(r"(?m)^([A-Z][A-Z0-9_]*)=(.*)$", lines))


WORKLOADS = {
    name: each for name, each in named("Deployment", "base").items() if name != "every-pod"
}
BACKGROUND_PROCESSES = {name: each for name, each in WORKLOADS.items() if name != "api"}
API = WORKLOADS["api"]


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings_there(overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a pod in an overlay, with its secret files."""
    for name in [*os.environ]:
        if name.lower().removesuffix("_file") in Settings.model_fields:
            monkeypatch.delenv(name)
    secrets = {
        "DATABASE_URL": "postgresql+asyncpg://app@postgres/app",
        "REDIS_URL": "redis://redis:6379/0",
        "SECRET_KEY": token_hex(32),
    }
    for name, value in secrets.items():
        (tmp_path / name).write_text(value)
    for name, value in environment(overlay).items():
        monkeypatch.setenv(name, value.replace(SECRETS, str(tmp_path)))
    settings = get_settings()
    assert settings.redis_url.get_secret_value() == secrets["REDIS_URL"]
    return settings


def test_the_settings_are_valid(overlay: str, settings_there: Settings) -> None:
    assert settings_there.environment == ("staging" if overlay == "staging" else "production")
    assert settings_there.web_concurrency == 1


def test_every_variable_is_a_setting() -> None:
    text = "\n".join(path.read_text() for path in FOLDER.rglob("settings.env"))
    for name, value in re.findall(r"(?m)^#?([A-Z][A-Z0-9_]*)=(.*)$", text):
        setting = name.removesuffix("_FILE")
        assert setting.lower() in Settings.model_fields, name
        if name.endswith("_FILE"):
            assert value == f"{SECRETS}/{setting}"


def test_ports_match_the_services_settings(overlay: str, settings_there: Settings) -> None:
    assert ports(API) == {"http": settings_there.port, "metrics": settings_there.metrics_port}
    [service] = (each for each in documents("base") if each["kind"] == "Service")
    assert {each["targetPort"] for each in service["spec"]["ports"]} == set(ports(API))
    given = {name: value for name, value in environment(overlay).items() if "METRICS_PORT" in name}
    for companion in BACKGROUND_PROCESSES.values():
        assert {str(port) for port in ports(companion).values()} <= set(given.values())


async def test_probes_succeed_and_metrics_have_their_own_port(settings: Settings) -> None:
    paths = {
        container(API)[probe]["httpGet"]["path"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert len(paths) == 3
    own = {"metrics_port": ports(API)["metrics"]}
    async with running_app(settings.model_copy(update=own)) as app:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport) as client:
            for path in paths:
                assert (await client.get(f"http://10.0.0.1:8000{path}")).status_code == 200
            for port, status in ((ports(API)["metrics"], 200), (ports(API)["http"], 404)):
                response = await client.get(f"http://10.0.0.1:{port}/metrics")
                assert response.status_code == status


def test_each_process_of_the_service_is_run_by_its_command() -> None:
    assert set(BACKGROUND_PROCESSES) == set(jobs.BACKGROUND_PROCESSES)
    known = click.Group(commands=dict(cli.commands))
    jobs.add_commands(known)
    called = {tuple(container(each)["command"]) for each in WORKLOADS.values()}
    [migrate] = named("Job", "base").values()
    called |= {tuple(words.split()) for words in container(migrate)["command"][-1].split("; ")}
    assert {command[0] for command in called} == {"app"}
    assert {command[1] for command in called} <= set(known.commands)


@pytest.mark.parametrize("name", BACKGROUND_PROCESSES)
def test_a_process_without_a_port_is_probed_by_its_heartbeat(name: str, tmp_path: Path) -> None:
    _, *probe = container(BACKGROUND_PROCESSES[name])["livenessProbe"]["exec"]["command"]
    here = {**os.environ, "TMPDIR": str(tmp_path)}

    def run(*arguments: str) -> int:
        return subprocess.run([sys.executable, *arguments], env=here, timeout=60).returncode

    assert run(*probe) == 1
    assert run("-c", f"from app.platform.base import heartbeat; heartbeat.touch({name!r})") == 0
    assert run(*probe) == 0


def test_the_termination_grace_period_covers_the_shutdown_of_the_api(
    settings_there: Settings,
) -> None:
    gunicorn = (ROOT / "gunicorn.conf.py").read_text()
    graceful = int(re.findall(r"(?m)^graceful_timeout = (\d+)", gunicorn)[0])
    before = container(API)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = settings_there.drain_seconds
    assert drain is not None
    assert 0 < drain < graceful < before + graceful < pod(API)["terminationGracePeriodSeconds"]


def test_the_page_of_time_outs_has_those_of_the_manifests() -> None:
    [route] = named("HTTPRoute", "base").values()
    [rule] = route["spec"]["rules"]
    [migrate] = named("Job", "base").values()
    given = {
        "processes.yaml: timeouts.request": int(rule["timeouts"]["request"].rstrip("s")),
        "processes.yaml: preStop": container(API)["lifecycle"]["preStop"]["sleep"]["seconds"],
        "processes.yaml: terminationGracePeriodSeconds": pod(API)["terminationGracePeriodSeconds"],
        "migrate.yaml: activeDeadlineSeconds": migrate["spec"]["activeDeadlineSeconds"],
    }
    page = rows()
    assert given == {name: page[f"deploy/kubernetes/base/{name}"].seconds for name in given}
    limit = given["processes.yaml: timeouts.request"]  # 0: none
    assert limit == 0 or limit > Settings.model_fields["request_timeout"].default


def test_probes_wait_longer_than_the_checks_that_they_ask_for() -> None:
    assert (
        rows()["health.CHECK_TIMEOUT"].seconds < container(API)["readinessProbe"]["timeoutSeconds"]
    )


@pytest.mark.parametrize("name", BACKGROUND_PROCESSES)
def test_the_termination_grace_period_covers_the_longest_job(
    name: str, settings_there: Settings
) -> None:
    registry.discover()
    watchdog = importlib.import_module("app.platform.jobs.watchdog")
    grace = settings_there.model_dump()["worker_shutdown_timeout"]
    ours = [kind for kind in registry.definitions() if kind.function.__module__.startswith("app.")]
    for kind in ours:
        assert kind.timeout <= grace, f"{kind.name} may take longer than WORKER_SHUTDOWN_TIMEOUT"
    needs = grace + watchdog.EXIT_MARGIN
    assert needs < pod(BACKGROUND_PROCESSES[name])["terminationGracePeriodSeconds"]


def queries() -> Iterator[str]:
    for folder in ("components", "overlays"):
        yield from (query for each in documents(folder) for query in _queries(each))


def _queries(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (each for key, each in value.items() if key == "query")
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from _queries(each)


async def test_queries_use_metrics_and_labels_that_the_service_exports(
    client: httpx2.AsyncClient,
) -> None:
    await client.get("/health/live")
    scraped = (await client.get("/metrics")).text
    text = re.sub(r"\{\{[^}]*\}\}", "x", "\n".join(queries()))
    queried = re.findall(r"([a-z_]{3,})\{([^}]*)\}", text)
    assert len(queried) >= 5
    for metric, matchers in queried:
        shown = re.search(rf"(?m)^{metric}(?:\{{(.*)\}})? ", scraped)
        assert shown, f"{metric} is not among the service's metrics"
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", matchers)) - ADDED
        assert labels <= set(re.findall(r"(\w+)=", shown[1] or "")), metric


def test_probes_are_not_counted_as_requests() -> None:
    left_out = set(re.findall(r"route!~\"([^\"]*)\"", "\n".join(queries())))
    assert left_out
    assert all(re.fullmatch(each, path) for each in left_out for path in PROBE_PATHS)


def test_the_connection_budget_counts_every_pod(overlay: str, settings_there: Settings) -> None:
    surge = {each["spec"]["strategy"]["rollingUpdate"]["maxSurge"] for each in WORKLOADS.values()}
    assert surge == {1}
    replicas, spare = settings_there.max_replicas, settings_there.db_reserved_connections
    assert replicas == _most(overlay, "api") + 1
    each = settings_there.db_pool_size + settings_there.db_max_overflow
    assert replicas * each + spare <= POSTGRES_ALLOWS
    opened = {
        name: (_most(overlay, name) + 1) * connections
        for name in BACKGROUND_PROCESSES
        for process, connections in jobs.background_connections(settings_there).items()
        if name in process
    }
    assert set(opened) == set(BACKGROUND_PROCESSES)
    if "DB_RESERVED_CONNECTIONS" in environment(overlay):
        assert 1 + sum(opened.values()) < spare, opened
    else:  # without it, one of each is counted
        assert {_most(overlay, name) for name in BACKGROUND_PROCESSES} <= {1}


def _most(overlay: str, name: str) -> int:
    """Return the maximum number of pods of a process."""
    scaled = {
        s["scaleTargetRef"]["name"]: s["maxReplicas"] for s in _scalers(f"overlays/{overlay}")
    }
    text = (FOLDER / "overlays" / overlay / "kustomization.yaml").read_text()
    fixed = {each["name"]: each["count"] for each in yaml.safe_load(text).get("replicas", [])}
    return int(scaled.get(name, fixed.get(name, 1)))


def _scalers(folder: str) -> Iterator[Json]:
    for scaler in named("HorizontalPodAutoscaler", folder).values():
        yield scaler["spec"]
    for scaler in named("ScaledObject", folder).values():
        yield {**scaler["spec"], "maxReplicas": scaler["spec"]["maxReplicaCount"]}


def test_the_hosts_of_the_route_are_allowed_hosts(overlay: str) -> None:
    text = (FOLDER / "overlays" / overlay / "kustomization.yaml").read_text()
    [patch] = (p for p in yaml.safe_load(text)["patches"] if p["target"]["kind"] == "HTTPRoute")
    [change] = yaml.safe_load(patch["patch"])
    assert ",".join(change["value"]) == environment(overlay)["ALLOWED_HOSTS"]


def test_network_policies_admit_the_gateway_and_prometheus() -> None:
    [route] = named("HTTPRoute", "base").values()
    admitted = {
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for policy in named("NetworkPolicy", "base").values()
        for rule in policy["spec"].get("ingress", [])
        for peer in rule["from"]
    }
    text = "\n".join(path.read_text() for path in FOLDER.rglob("*.yaml"))
    [prometheus] = set(re.findall(r"http://[\w-]+\.([\w-]+)\.svc:9090", text))
    assert admitted == {route["spec"]["parentRefs"][0]["namespace"], prometheus}


def test_pods_run_as_the_user_of_the_image() -> None:
    every = named("Deployment", "base")["every-pod"]
    context = pod(every)["securityContext"]
    user = f"{context['runAsUser']}:{context['runAsGroup']}"
    assert re.findall(r"(?m)^USER (\S+)", (ROOT / "Dockerfile").read_text()) == [user]
