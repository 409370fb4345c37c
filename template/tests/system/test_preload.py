"""Workers import nothing of their own after the fork, and collect nothing from before it."""

import json
import os
import subprocess
import sys

from tests.conftest import ROOT
from tests.system.serving import free_port

CODE = """
import asyncio, json, os, sys
from uvicorn.config import Config
import app.platform.server.gunicorn_worker
from app.main import create_app
from app.platform.data.preload import import_before_fork
from app.platform.server.connection_limits import BoundedHttpProtocol, BoundedWebSocketProtocol

app = create_app()
if child := os.fork():  # a worker of a server that imports nothing before the fork
    os.waitpid(child, 0)
    import_before_fork(app.state.settings)
before = set(sys.modules)
PATHS = ("/health/ready", "/metrics", "/openapi.json", "/api/v1/nothing")

async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}

async def send(message):
    pass

async def main():
    config.load()
    lifespan = config.lifespan_class(config)
    await lifespan.startup()
    for path in PATHS:
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1"}
        scope |= {"method": "GET", "scheme": "http", "path": path, "raw_path": path.encode()}
        scope |= {"query_string": b"", "root_path": "", "headers": [], "state": lifespan.state}
        await app(scope, receive, send)
    added = {name.partition(".")[0] for name in set(sys.modules) - before}
    print(json.dumps(sorted(added - sys.stdlib_module_names)), flush=True)
    os._exit(0)  # at once: a shutdown would wait for the collector

config = Config(app, log_config=None, http=BoundedHttpProtocol, ws=BoundedWebSocketProtocol)
asyncio.Runner(loop_factory=config.get_loop_factory()).run(main())
"""
SERVE = """
import gc, os, signal, sys
from app.__main__ import main
from app.platform.server.gunicorn_worker import Worker

async def serve(worker):
    print(gc.isenabled(), gc.get_freeze_count() > 100_000, flush=True)
    os.kill(os.getppid(), signal.SIGTERM)

Worker._serve = serve
sys.argv = ["app", "serve"]
main()
"""
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


def test_workers_share_what_they_import(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=ROOT,
        env=os.environ | environment | ENDPOINT,
        check=True,
        stdout=subprocess.PIPE,
        timeout=60,
    )
    lists = [line for line in done.stdout.splitlines() if line.startswith(b"[")]
    without, preloaded = map(json.loads, lists)
    assert without
    assert preloaded == []


def test_workers_collect_what_they_create_and_nothing_from_before_the_fork(
    environment: dict[str, str],
) -> None:
    variables = os.environ | environment | {"WEB_CONCURRENCY": "1", "PORT": str(free_port())}
    done = subprocess.run(
        [sys.executable, "-c", SERVE],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        timeout=60,
    )
    assert b"True True" in done.stdout.splitlines()
