"""tools/load.py: a load test fails with one sentence, and needs a scenario."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.system.serving import Serve
from tests.system.smoke import start

pytestmark = pytest.mark.skipif(
    not shutil.which("uvx") or not shutil.which("make"), reason="needs uvx and make"
)
SCENARIO = """
def probe(user):
    user.send("GET", "/health/live")

TASKS = {probe: 1}
"""


def run(url: str, folder: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """``make load`` in ``folder``, with the Makefile of the service."""
    make = ["make", "--file", str(ROOT / "Makefile"), "load", f"url={url}", "shape=1x"]
    environment = os.environ | variables
    return subprocess.run(
        make, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def limited() -> Iterator[str]:
    """The URL of a server that always responds with 429."""

    class Limited(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(429)

        def log_message(self, *args: object) -> None:
            """Do not log requests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Limited) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


async def test_a_threshold_fails_it_with_a_sentence(
    serve: Serve, tmp_path: Path, limited: str
) -> None:
    smoke = await start(serve, tmp_path)
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/load.py", tmp_path / "tools")
    without = run(smoke.server.url, tmp_path)
    assert without.returncode
    assert "tools/load/ has no scenario" in without.stderr

    (tmp_path / "tools/load").mkdir()
    (tmp_path / "tools/load/probe.py").write_text(SCENARIO)
    variables = smoke.credentials | {"LOAD_SECONDS": "2", "LOAD_P99_MS": "0.1"}
    slow = run(smoke.server.url, tmp_path, **variables)
    assert slow.returncode
    assert "is more than LOAD_P99_MS=0.1" in slow.stderr
    (tmp_path / "tools/load/probe.py").write_text(SCENARIO.replace("/health/live", limited))
    wrong = run(smoke.server.url, tmp_path, **variables)
    assert wrong.returncode
    assert "100.00 % errors are more than LOAD_ERRORS=0.1" in wrong.stderr
    assert "are 429: start the service with RATE_LIMIT=off" in wrong.stderr
