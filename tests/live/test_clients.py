"""The clients that `make` generates are compiled and call a running service."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests import generator, suite

HERE = Path(__file__).parent / "clients"
EXPECTED = "201 Anchor"
PATIENCE = 200  # seconds: the service's dependencies, from nothing, and its servers

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clients")
    template = generator.copy_of_template(folder / "template")
    generator.render(template, folder / "service")
    return folder / "service"


@pytest.fixture(scope="module")
def url(service: Path) -> Iterator[str]:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*suite.UV, "run", "app", "dev", "--port", str(port)]
    with (
        (service / "dev.log").open("wb") as log,
        subprocess.Popen(
            command, cwd=service, stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            _wait(f"http://127.0.0.1:{port}/health/ready", service / "dev.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)


def _wait(address: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.5)


def run(folder: Path, *command: str | Path, **environment: str) -> str:
    """Run a command, with the generator's uv; return what it prints."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    given = {**os.environ, "PATH": path, **environment}
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.strip()


def test_a_python_client(service: Path, url: str) -> None:
    run(service, "make", "client-python")
    client = service / "clients/python"
    uses = [
        "uv",
        "run",
        "--no-project",
        "--with",
        str(client),
        "python",
        str(HERE / "through_python.py"),
        url,
    ]
    assert run(client, *uses) == f"{EXPECTED} unauthorized"


@pytest.mark.skipif(not shutil.which("npx"), reason="there is no Node.js here")
def test_a_typescript_client(service: Path, url: str) -> None:
    run(service, "make", "client-typescript")
    client = service / "clients/typescript"
    shutil.copy(HERE / "through_typescript.mts", client)
    (client / "package.json").write_text("{}")
    run(client, "npm", "install", "--no-audit", "--no-fund", "openapi-fetch@0.17", "typescript@5")
    modern = ("--target", "es2022", "--lib", "es2022,dom,dom.iterable", "--module", "nodenext")
    run(client, "npx", "tsc", "--strict", "--skipLibCheck", *modern, "through_typescript.mts")
    assert run(client, "node", "through_typescript.mjs", url) == f"{EXPECTED} unauthorized"
