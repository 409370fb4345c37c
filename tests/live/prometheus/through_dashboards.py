"""Runs inside a generated service: the queries of its dashboards, asked of a real Prometheus.

The service and its worker run as in production, with two routes more: one fails, and one is what a
CDN would be. A Prometheus with the service's own rules collects from both while everything that
the panels show happens.
"""

import asyncio
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from websockets.asyncio.client import connect

from app.settings import Settings
from tests.actors import sign_in
from tests.conftest import ROOT

PATIENCE = 60  # seconds, of which a quiet machine needs a fifth
RATE = "15s"
APP = """
from app import main
from app.platform.http import routing

def create_app():
    app = main.create_app()
    async def broken() -> None:
        raise ZeroDivisionError
    app.add_api_route("/test/broken", broken)
    async def purge() -> None: ...
    app.add_api_route("/test/purge", purge, methods=["POST"])
    routing.install_index(app)
    return app
"""
ITEMS = "/api/v1/items"
PROVISIONED = ROOT / "compose/grafana"

Json = dict[str, Any]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def dashboards() -> dict[str, Json]:
    files = sorted((PROVISIONED / "dashboards").glob("*.json"))
    return {path.stem: json.loads(path.read_text()) for path in files}


def queries() -> dict[str, str]:
    """The queries of all panels, by the panel and the query's letter."""
    return {
        f"{name}: {panel['title']} {target['refId']}": filled(target["expr"])
        for name, board in dashboards().items()
        for panel in board["panels"]
        for target in panel.get("targets", [])
        if target["datasource"]["uid"] == "prometheus"
    }


def filled(expression: str) -> str:
    """The query with what Grafana would put in place of its variables."""
    for name, value in (("__rate_interval", RATE), ("__range", "1m")):
        expression = expression.replace(f"${name}", value)
    return re.sub(r"\$\w+", ".*", expression)


@contextmanager
def process(log: Path, *command: str, **environment: str) -> Iterator[None]:
    with log.open("w") as output:
        given = {**os.environ, **environment}
        started = subprocess.Popen(command, env=given, stdout=output, stderr=output)
    try:
        yield
    finally:
        started.terminate()
        started.wait(30)


@pytest.fixture
async def prometheus(
    fresh_settings: Settings, environment: dict[str, str], tmp_path: Path
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of Prometheus, which collects every second from a service that is used."""
    api, worker, port = free_port(), free_port(), free_port()
    (tmp_path / "observed.py").write_text(APP)
    for path in (ROOT / "compose/rules").glob("*.yml"):
        rules = re.sub(r"interval: \d+s", "interval: 1s", path.read_text())
        (tmp_path / f"rules-{path.name}").write_text(rules)
    jobs = {"api": api, "worker": worker}
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(tmp_path / "rules-*.yml")],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{number}"]}]}
            for job, number in jobs.items()
        ],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    environment |= {
        "PORT": str(api),
        "WEB_CONCURRENCY": "1",
        "WORKER_METRICS_PORT": str(worker),
        "RATE_LIMIT": "100000/minute",
        "OTEL_TRACES_SAMPLER_ARG": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",  # nobody listens
        "DATABASE_REPLICA_URL": environment["DATABASE_URL"],  # no standby: its lag is infinite
        "CDN_PURGE_URL": f"http://127.0.0.1:{api}/test/purge",
        "CDN_PURGE_TOKEN": "of-a-test",
        "PYTHONPATH": str(tmp_path),
    }
    app = str(Path(sys.executable).with_name("app"))
    gunicorn = [sys.executable, "-m", "gunicorn", "observed:create_app()"]
    collect = [
        "prometheus",
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=error",
    ]
    url = f"http://127.0.0.1:{api}"
    with (
        process(tmp_path / "api.log", *gunicorn, **environment),
        process(tmp_path / "worker.log", app, "worker", **environment),
        process(tmp_path / "prometheus.log", *collect),
    ):
        base = f"http://127.0.0.1:{port}/api/v1"
        async with httpx2.AsyncClient(base_url=base, timeout=20) as client, used(url, tmp_path):
            yield client


@asynccontextmanager
async def used(url: str, logs: Path) -> AsyncIterator[None]:
    """Use the service until the block ends."""
    async with httpx2.AsyncClient(base_url=url, timeout=20) as client:
        end = time.monotonic() + PATIENCE
        while True:
            with suppress(httpx2.TransportError):
                if (await client.get("/health/ready")).is_success:
                    break
            assert time.monotonic() < end, (logs / "api.log").read_text()
            await asyncio.sleep(0.1)
        client.headers.update(await sign_in(client, "alice@example.com"))
        item = (await client.post(ITEMS, json={"name": "Anchor"})).json()["id"]
        users = [use, use_sockets, use_streams, use_webhooks]
        tasks = [asyncio.create_task(each(client, f"{ITEMS}/{item}")) for each in users]
        try:
            yield
        finally:
            broke = [task.exception() for task in tasks if task.done()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert not broke, broke


async def use(client: httpx2.AsyncClient, item: str) -> None:
    """Call every route with a panel of its own; one answers 500, others above their limit."""
    while True:
        for path in (item, f"{item}/stock", f"{ITEMS}/statistics", ITEMS, "/test/broken"):
            await client.get(path)
        await client.post(f"{ITEMS}/export")
        picture = b"\x89PNG\r\n\x1a\n" + os.urandom(2000)
        await client.post(f"{item}/attachments", params={"name": "a.png"}, content=picture)
        await client.post(f"{item}/notes", json={"text": "Sold."})
        await client.post(f"{item}/copies", headers={"Idempotency-Key": "one-copy"})
        await client.post(f"{ITEMS}/shelf", json={"name": "Anchor"})
        await asyncio.sleep(0.2 + 0.15 * math.sin(time.monotonic() / 12))  # in waves


async def use_sockets(client: httpx2.AsyncClient, item: str) -> None:
    """Enter the room of the item, say something, and leave, over and over."""
    url = f"ws{str(client.base_url).removeprefix('http').rstrip('/')}{item}/room"
    headers = {"Authorization": client.headers["Authorization"]}
    async with connect(url, additional_headers=headers):  # one stays
        while True:
            async with connect(url, additional_headers=headers) as room:
                await room.send(json.dumps({"type": "say", "text": "Sold."}))
                await asyncio.sleep(0.2)


async def use_streams(client: httpx2.AsyncClient, item: str) -> None:
    """Watch the item for a moment, over and over."""
    while True:
        async with client.stream("GET", f"{item}/events") as answer:
            assert answer.status_code == 200
            await asyncio.sleep(0.5)


async def use_webhooks(client: httpx2.AsyncClient, item: str) -> None:
    """Send test messages to a subscriber without an address."""
    new = {"url": "https://subscriber.invalid/", "event_types": ["item.published"]}
    answer = await client.post("/api/v1/webhooks/subscriptions", json=new)
    assert answer.status_code == 201, answer.text
    while True:
        await client.post(f"{answer.headers['Location']}/ping")
        await asyncio.sleep(5)


async def unanswered(prometheus: httpx2.AsyncClient, asked: dict[str, str]) -> dict[str, str]:
    """The queries that have no number for an answer."""
    found = {}
    for name, query in asked.items():
        answer = (await prometheus.get("/query", params={"query": query})).json()
        assert answer["status"] == "success", (query, answer)
        if all(each["value"][1] == "NaN" for each in answer["data"]["result"]):
            found[name] = query
    return found


async def test_every_query_of_every_dashboard_has_an_answer(prometheus: httpx2.AsyncClient) -> None:
    left = queries()
    assert len(left) > 40
    end = time.monotonic() + PATIENCE
    while left:
        assert time.monotonic() < end, left
        await asyncio.sleep(1)
        with suppress(httpx2.TransportError):
            left = await unanswered(prometheus, left)

    durations = {
        "query": "http_server_request_duration_seconds_bucket",
        "start": str(time.time() - 60),
        "end": str(time.time()),
    }
    [*series] = (await prometheus.get("/query_exemplars", params=durations)).json()["data"]
    traces = [each["labels"]["trace_id"] for one in series for each in one["exemplars"]]
    assert traces
    assert all(re.fullmatch("[0-9a-f]{32}", trace) for trace in traces)

    if to := os.environ.get("DRAWN_FROM"):
        await record(prometheus, Path(to), float(os.environ["DRAWN_SECONDS"]))


async def record(prometheus: httpx2.AsyncClient, to: Path, seconds: float) -> None:
    """Write the answers about the next seconds, from which the pictures are drawn."""
    await asyncio.sleep(seconds)
    now = time.time()
    times = {"start": str(now - seconds), "end": str(now), "step": "2"}
    answers = {}
    for name, query in queries().items():
        answer = await prometheus.get("/query_range", params={"query": query, **times})
        answers[name] = answer.json()["data"]["result"]
    to.write_text(json.dumps({"dashboards": dashboards(), "answers": answers}))
