"""An S3 server for tests, which verifies signatures."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from tests.system.serving import free_port

BUCKET = "bucket"


@contextmanager
def running_s3(folder: Path) -> Iterator[dict[str, str]]:
    """A server that keeps ``BUCKET`` in ``folder``; the variables with which AWS clients use it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    (folder / BUCKET).mkdir()
    variables = {
        "AWS_ACCESS_KEY_ID": "uploads",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_CONFIG_FILE": "/dev/null",
    }
    keys = {"NANIO_ACCESS_KEY": "uploads", "NANIO_SECRET_KEY": "secret"}
    command = ["nanio", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--data-dir", str(folder)],
            env=keys,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_for(url)
        yield variables
    finally:
        process.kill()
        process.wait()


def _wait_for(url: str) -> None:
    end = datetime.now(UTC) + timedelta(seconds=30)
    while datetime.now(UTC) < end:
        try:
            httpx2.get(url)
        except httpx2.TransportError:
            continue
        return
    pytest.fail("the S3 server did not start")
