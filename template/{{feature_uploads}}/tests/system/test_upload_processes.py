"""Uploads to Gunicorn: large ones in constant memory, and one whose process is killed."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest

from tests.conftest import ROOT
from tests.s3 import BUCKET, running_s3
from tests.system.serving import Serve, Server
from tests.uploading import PNG, objects

MIB = 1024 * 1024
# UPLOADS_TEST_MIB=5120 is the full size.
SIZE = int(os.environ.get("UPLOADS_TEST_MIB", "256")) * MIB
MEMORY = 60 * MIB  # that an upload or a download may add: parts in transit, and the allocator's
FILES = "/test/orders:7/files"

APP = """
import os
from app import main
from app.platform.http import routing
from tests.uploading import create_router

def create_app():
    app = main.create_app()
    app.include_router(create_router())

    async def pid() -> int:
        return os.getpid()

    app.add_api_route("/test/pid", pid)
    routing.install_index(app)
    return app
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "uploading_service.py").write_text(APP)
    folder = tmp_path / "objects"
    folder.mkdir()
    return folder


@pytest.fixture
def serving(serve: Serve, tmp_path: Path, folder: Path) -> Callable[..., Server]:
    def start(**changes: str) -> Server:
        usual = {
            "UPLOADS_URL": folder.as_uri(),
            "UPLOADS_MAX_SIZE": str(SIZE + MIB),
            "WEB_CONCURRENCY": "1",
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        }
        return serve("gunicorn", "uploading_service:create_app()", **usual | changes)

    return start


def peak(pid: int) -> int:
    """The largest resident memory of a process so far, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def sparse(path: Path) -> Path:
    """A picture of ``SIZE`` bytes that takes no room on the disk."""
    with path.open("wb") as file:
        file.write(PNG)
        file.truncate(SIZE)
    return path


def chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(MIB):
            yield chunk


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, folder: Path) -> Iterator[dict[str, str]]:
    """The variables of a service whose storage is a folder or a bucket."""
    if request.param == "folder":
        yield {"UPLOADS_URL": folder.as_uri()}
    else:
        with running_s3(folder) as variables:
            yield variables | {"UPLOADS_URL": f"s3://{BUCKET}/uploads"}
    shutil.rmtree(folder)  # tmp_path is kept for a while


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_large_file_is_uploaded_and_downloaded_in_constant_memory(
    serving: Callable[..., Server],
    storage: dict[str, str],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    server = serving(**storage)
    pid, source = server.pid(), sparse(tmp_path / "source.png")
    with httpx2.Client(base_url=server.url, timeout=600, verify=False) as client:
        small = client.post(FILES, params={"name": "a.png"}, content=PNG)
        assert small.status_code == 201, small.text
        before = peak(pid)
        headers = {"Content-Length": str(SIZE)}
        answer = client.post(
            FILES, params={"name": "a.png"}, content=chunks(source), headers=headers
        )
        assert answer.status_code == 201, answer.text + server.log.read_text()
        assert answer.json()["size"] == SIZE
        uploaded = peak(pid)
        size = 0
        with client.stream(
            "GET", f"{FILES}/{answer.json()['id']}", headers={"Accept-Encoding": "identity"}
        ) as response:
            for chunk in response.iter_raw():
                size += len(chunk)
        downloaded = peak(pid)
    sizes = (SIZE, before, uploaded, downloaded)
    figures = "{} MiB: {} MiB before, {} uploaded, {} downloaded".format(*(n // MIB for n in sizes))
    record_property("memory", figures)
    assert size == SIZE
    assert downloaded - before < MEMORY, figures


def age(database_url: str, folder: Path) -> None:
    """Make all uploads and objects two days old; by default, incomplete ones are kept for one."""

    async def age_rows() -> None:
        connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
        await connection.execute(
            "UPDATE uploads SET (created_at, changed_at) ="
            " (created_at - interval '2 days', changed_at - interval '2 days')"
        )
        await connection.close()

    asyncio.run(age_rows())
    two_days_ago = time.time() - 2 * 86_400
    for path in folder.iterdir():
        os.utime(path, (two_days_ago, two_days_ago))


def test_an_upload_whose_process_is_killed_leaves_nothing_after_the_clean_up(
    serving: Callable[..., Server], folder: Path, environment: dict[str, str]
) -> None:
    server = serving()
    url = urlsplit(server.url)
    assert url.hostname
    assert url.port
    head = f"POST {FILES}?name=a.png HTTP/1.1\r\nHost: test\r\nContent-Length: {64 * MIB}\r\n\r\n"
    with socket.create_connection((url.hostname, url.port)) as connection:
        connection.sendall(head.encode() + PNG + bytes(24 * MIB))
        server.until(lambda: any("#" in name for name in objects(folder)))
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        server.until(lambda: server.get(FILES).is_success)
    [left] = server.get(FILES).json()
    assert left["state"] == "pending"
    assert len(objects(folder)) == 1
    age(environment["DATABASE_URL"], folder)
    cleaned = subprocess.run(
        [sys.executable, "-m", "app", "uploads", "clean"], cwd=ROOT, text=True, check=True,
        env=environment | {"UPLOADS_URL": folder.as_uri()}, stdout=subprocess.PIPE,
    ).stdout  # fmt: skip
    assert cleaned.startswith("Deleted: 1 uploads, 0 objects without one, and the parts of 1 ")
    assert objects(folder) == []
    assert server.get(FILES).json() == []
