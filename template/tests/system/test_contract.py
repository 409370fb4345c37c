"""The API conforms to its OpenAPI document: Schemathesis sends generated requests to a process."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from app.settings import Settings
from tests.actors import sign_in, sign_in_with
from tests.conftest import ROOT, running_app

# For a deep run: SCHEMATHESIS_EXAMPLES=500 uv run pytest tests/system/test_contract.py
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "15")
# Each ends the session that its run uses, and so has a run and a session of its own.
LOGOUT = ".*/logout.*"
# For administrators alone, who could end the sessions of the other runs.
ADMIN = ".*/admin/.*"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
async def service(environment: dict[str, str]) -> AsyncIterator[str]:
    """The URL of the service, served as in production, without rate limits."""
    port = free_port()
    env = {**environment, "PORT": str(port), "WEB_CONCURRENCY": "1", "RATE_LIMIT": "off"}
    process = subprocess.Popen([sys.executable, "-m", "app", "serve"], env=env, cwd=ROOT)  # noqa: ASYNC220
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(f"{address}/health/ready")
        yield address
    finally:
        process.terminate()
        process.wait(60)


def wait_until_ready(url: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            httpx2.get(url, verify=False).raise_for_status()
        except httpx2.HTTPError:
            assert time.monotonic() < end, f"no response from {url}"
            time.sleep(0.1)
        else:
            return


async def test_responses_conform_to_the_openapi_document(
    service: str, fresh_settings: Settings, tmp_path: Path
) -> None:
    async with httpx2.AsyncClient(base_url=service) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
        headers = await sign_in(client, "contract@example.com")
        run_schemathesis(service, tmp_path, headers, "--exclude-path-regex", f"{LOGOUT}|{ADMIN}")
        for path in filter(re.compile(LOGOUT).fullmatch, paths):
            headers = await sign_in(client, "logout@example.com")
            run_schemathesis(service, tmp_path, headers, "--include-path", path)
        if any(map(re.compile(ADMIN).fullmatch, paths)):
            async with running_app(fresh_settings) as app:
                headers = await sign_in_with(app, client, "admin@example.com", "admin")
            run_schemathesis(service, tmp_path, headers, "--include-path-regex", ADMIN)


def run_schemathesis(service: str, folder: Path, headers: dict[str, str], *paths: str) -> None:
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        *("--config-file", str(ROOT / "schemathesis.toml"), "run", f"{service}/openapi.json"),
        *("--max-examples", EXAMPLES, "--no-color", *paths),
        *(argument for name, value in headers.items() for argument in ("-H", f"{name}:{value}")),
    ]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
