"""Workers import nothing of their own after the fork."""

import json
import os
import subprocess
import sys

from tests.conftest import ROOT

CODE = """
import asyncio, json, os, sys
import uvloop
import app.platform.server.gunicorn_worker
from app.main import create_app
from app.platform.data.preload import import_before_fork

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
    async with app.router.lifespan_context(app):
        for path in PATHS:
            scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1"}
            scope |= {"method": "GET", "scheme": "http", "path": path, "raw_path": path.encode()}
            scope |= {"query_string": b"", "root_path": "", "headers": [], "state": {}}
            await app(scope, receive, send)

uvloop.run(main())
added = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(added - sys.stdlib_module_names)))
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
