"""Fixtures for tests that start processes."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.system.serving import APP, Serve, Server, free_port


@pytest.fixture
def serve(environment: dict[str, str], tmp_path: Path) -> Iterator[Serve]:
    (tmp_path / "service_under_test.py").write_text(APP)
    servers: list[Server] = []

    def start(*command: str, cwd: Path = ROOT, **changes: str) -> Server:
        port = free_port()
        usual = {"PORT": str(port), "WEB_CONCURRENCY": "2"}
        usual |= {"PYTHONPATH": str(tmp_path), "GATES": str(tmp_path)}
        log = tmp_path / f"log-{port}"
        output = log.open("w")
        process = subprocess.Popen(
            [sys.executable, "-m", *(command or ["gunicorn", "service_under_test:create_app()"])],
            cwd=cwd, env=environment | usual | changes, text=True, stdout=output, stderr=output,
        )  # fmt: skip
        output.close()
        server = Server(process, port, log)
        servers.append(server)
        server.until(server.is_up_or_has_exited, 60)
        return server

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
