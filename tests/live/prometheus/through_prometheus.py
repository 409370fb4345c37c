"""Runs inside a generated service: what its manifests ask of Prometheus, asked of a real one.

Two versions of the service run here, a good one and a bad one, and a Prometheus collects from both
as it would from pods. Each query gets the answer that its rule is meant for.
"""

import asyncio
import math
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
import yaml
from fastapi import FastAPI

from app.items.jobs import export_items
from app.platform.http import routing
from app.settings import Settings
from tests.conftest import ROOT, running_app

PATIENCE = 90
JOBS = 12
MANIFESTS = ROOT / "deploy/kubernetes"
CONFIGURATION = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: api
    static_configs:
      - targets: ["127.0.0.1:{good}"]
        labels: {{namespace: my-service, pod: a, rollouts_pod_template_hash: good}}
      - targets: ["127.0.0.1:{bad}"]
        labels: {{namespace: my-service, pod: b, rollouts_pod_template_hash: bad}}
"""

Json = dict[str, Any]
Ask = Callable[[str], list[float]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def served(settings: Settings, port: int) -> AsyncIterator[FastAPI]:
    """Serve a version that also has a route which fails, and a slow one."""
    async with running_app(settings) as app:

        async def well() -> str:
            return "well"

        async def broken() -> str:
            raise ZeroDivisionError

        async def slow() -> str:
            await asyncio.sleep(0.6)
            return "slow"

        app.add_api_route("/well", well)
        app.add_api_route("/slow", slow)
        app.add_api_route("/broken", broken)
        routing.install_index(app)
        config = uvicorn.Config(app, port=port, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        try:
            yield app
        finally:
            server.should_exit = True
            await task


@pytest.fixture
async def ask(fresh_settings: Settings, tmp_path: Path) -> AsyncIterator[Ask]:
    """Return what asks Prometheus, once it has seen how both versions answered."""
    ports = {"good": free_port(), "bad": free_port(), "prometheus": free_port()}
    (tmp_path / "prometheus.yml").write_text(CONFIGURATION.format(**ports))
    url = f"http://127.0.0.1:{ports['prometheus']}"
    command = [
        "prometheus",
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{ports['prometheus']}",
        "--log.level=error",
    ]

    def query(text: str) -> list[float]:
        answer = httpx2.get(f"{url}/api/v1/query", params={"query": text}, timeout=20)
        found = answer.raise_for_status().json()
        assert found["status"] == "success", found
        return [float(each["value"][1]) for each in found["data"]["result"]]

    async with (
        served(fresh_settings, ports["good"]) as good,
        served(fresh_settings, ports["bad"]),
        httpx2.AsyncClient(timeout=20) as client,
    ):
        async with good.state.db.transaction() as session:
            for _ in range(JOBS):
                await good.state.jobs.queue_for(session).enqueue(export_items, owner="somebody")
        prometheus = subprocess.Popen(command)
        try:
            end = time.monotonic() + PATIENCE
            while await _rates(query) < 3:
                assert time.monotonic() < end, "Prometheus saw no requests"
                await _requests(client, ports)
            yield query
        finally:
            prometheus.terminate()
            prometheus.wait(30)


async def _requests(client: httpx2.AsyncClient, ports: dict[str, int]) -> None:
    asked = (("good", "well", 200), ("bad", "broken", 500), ("bad", "slow", 200))
    for version, path, status in asked:
        for _ in range(3):
            answer = await client.get(f"http://127.0.0.1:{ports[version]}/{path}")
            assert answer.status_code == status
        for probe in ("live", "ready"):
            await client.get(f"http://127.0.0.1:{ports[version]}/health/{probe}")


async def _rates(query: Ask) -> int:
    """The number of rates that Prometheus knows: of good and failed requests, by version."""
    seen = (
        'sum by (pod, status) (rate(http_server_request_duration_seconds_count{route!~"/health/.*"}'
        "[2m]))"
    )
    try:
        return sum(rate > 0 for rate in await asyncio.to_thread(query, seen))
    except httpx2.HTTPError:  # not up yet, or up and still reading its data
        return 0


def rules() -> dict[str, Json]:
    [template] = yaml.safe_load_all((MANIFESTS / "components/canary/slo.yaml").read_text())
    return {each["name"]: each for each in template["spec"]["metrics"]}


def passes(rule: Json, pods: str, ask: Ask) -> bool:
    """Decide as Argo would: ``successCondition``, about the answer to the query."""
    query = rule["provider"]["prometheus"]["query"]
    query = query.replace("{{args.namespace}}", "my-service").replace("{{args.pods}}", pods)
    condition = rule["successCondition"].replace("||", "or").replace("&&", "and")
    names = {"result": ask(query), "len": len, "isNaN": math.isnan}
    return bool(eval(condition, {"__builtins__": {}}, names))


async def test_the_gate_lets_a_good_version_pass_and_no_other(ask: Ask) -> None:
    def verdicts(pods: str) -> dict[str, bool]:
        return {name: passes(rule, pods, ask) for name, rule in rules().items()}

    good = await asyncio.to_thread(verdicts, "good")
    assert good == {"is-watched": True, "availability": True, "latency": True}
    bad = await asyncio.to_thread(verdicts, "bad")
    assert bad == {"is-watched": True, "availability": False, "latency": False}
    # Nobody collects from it: what can't be seen must not pass.
    unseen = await asyncio.to_thread(verdicts, "unseen")
    assert unseen == {"is-watched": False, "availability": True, "latency": True}


async def test_workers_are_scaled_by_what_is_due(ask: Ask) -> None:
    files = yaml.safe_load_all((MANIFESTS / "overlays/production/scaling.yaml").read_text())
    [scaler] = (each for each in files if each["kind"] == "ScaledObject")
    [trigger] = scaler["spec"]["triggers"]
    assert await asyncio.to_thread(ask, trigger["metadata"]["query"]) == [JOBS]
