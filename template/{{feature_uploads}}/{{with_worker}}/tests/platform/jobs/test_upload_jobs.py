"""Uploads are scanned before anyone reads them, and cleaned up, by jobs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from sqlalchemy import text

from app.platform.base import clamav
from app.platform.data import uploads
from app.platform.jobs import registry, upload_jobs
from app.platform.observability.logs import get_logger
from app.settings import Settings
from tests.conftest import client_for
from tests.uploading import PNG, execute, objects, uploading_app

FILES = "/test/orders:7/files"
# Not the test file of EICAR: scanners on the machine of a developer would find it.
MALWARE = PNG + b"malware"


class Context:
    """What the jobs use of their context."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self.transaction = app.state.db.transaction
        self.queue_for = app.state.jobs.queue_for
        self.read_session = app.state.read_session
        self.logger = get_logger("app.platform.jobs.uploads.scan")


class Clamd:
    """A daemon that speaks INSTREAM, as clamd(8) has it, and finds ``malware``."""

    def __init__(self, max_length: int = 1_000_000) -> None:
        self.max_length = max_length
        self.address = ""
        self.scanned: list[bytes] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Clamd"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield self
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readuntil(b"\0") == b"zINSTREAM\0"
        data = b""
        while length := int.from_bytes(await reader.readexactly(4)):
            data += await reader.readexactly(length)
            if len(data) > self.max_length:
                writer.write(b"INSTREAM size limit exceeded. ERROR\0")
                while await reader.read(1_000_000):
                    pass  # until the client leaves: it has to stop by itself
                break
        else:
            self.scanned.append(data)
            found = b"Test.Malware FOUND" if b"malware" in data else b"OK"
            writer.write(b"stream: " + found + b"\0")
        await writer.drain()
        writer.close()


@pytest.fixture
async def clamd() -> AsyncIterator[Clamd]:
    async with Clamd().running() as clamd:
        yield clamd


@pytest.fixture
async def app(module_settings: Settings, tmp_path: Path, clamd: Clamd) -> AsyncIterator[FastAPI]:
    async with uploading_app(
        module_settings, uploads_url=tmp_path.as_uri(), clamav_address=clamd.address
    ) as app:
        await execute(app, "DELETE FROM uploads")
        await execute(app, "DELETE FROM jobs")
        yield app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(app) as client:
        yield client


async def upload(client: httpx2.AsyncClient, data: bytes) -> str:
    answer = await client.post(FILES, params={"name": "a.png"}, content=data)
    assert (answer.status_code, answer.json()["state"]) == (201, "pending")
    return str(answer.json()["id"])


async def run_scan(app: FastAPI) -> str:
    """Run the job that is queued."""
    [[arguments]] = await execute(app, "SELECT arguments FROM jobs WHERE name = 'uploads.scan'")
    context = cast("Any", Context(app))
    return await upload_jobs.scan(context, UUID(arguments["upload_id"]))


async def test_an_upload_can_be_read_once_it_is_scanned(
    client: httpx2.AsyncClient, app: FastAPI, clamd: Clamd
) -> None:
    path = f"{FILES}/{await upload(client, PNG)}"
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (409, "upload_not_stored")
    assert await run_scan(app) == "clean"
    assert clamd.scanned == [PNG]
    assert (await client.get(path)).content == PNG
    assert await run_scan(app) == "deleted or scanned before"


async def test_malware_is_deleted_and_never_read(
    client: httpx2.AsyncClient, app: FastAPI, tmp_path: Path
) -> None:
    path = f"{FILES}/{await upload(client, MALWARE)}"
    await run_scan(app)
    [failed] = (await client.get(FILES)).json()
    assert failed["state"] == "failed"
    assert failed["reason"] == "The file contains malware: Test.Malware."
    assert (await client.get(path)).status_code == 409
    assert objects(tmp_path) == []


async def test_a_file_that_is_too_large_to_be_scanned_is_refused(
    client: httpx2.AsyncClient, app: FastAPI, clamd: Clamd
) -> None:
    clamd.max_length = 100
    await upload(client, PNG + bytes(3_000_000))
    await run_scan(app)
    [failed] = (await client.get(FILES)).json()
    assert failed["reason"] == "The file is too large to be scanned."


async def test_an_upload_stays_pending_while_it_can_not_be_scanned(
    client: httpx2.AsyncClient, app: FastAPI
) -> None:
    app.state.settings.clamav_address = "127.0.0.1:1"
    path = f"{FILES}/{await upload(client, PNG)}"
    with pytest.raises(clamav.ScanFailed):
        await run_scan(app)
    assert (await client.get(path)).status_code == 409


async def test_an_upload_whose_scan_has_failed_for_good_is_scanned_again(
    client: httpx2.AsyncClient, app: FastAPI, clamd: Clamd
) -> None:
    await upload(client, PNG)
    await execute(app, "UPDATE jobs SET status = 'dead', finished_at = now()")
    count = "SELECT count(*) FROM jobs WHERE name = 'uploads.scan' AND status = 'queued'"
    context = cast("Any", Context(app))
    await upload_jobs.clean(context)
    assert await execute(app, count) == [(0,)]  # it may be retried yet
    await execute(app, "UPDATE uploads SET received_at = now() - interval '61 minutes'")
    for _ in range(2):
        await upload_jobs.clean(context)
    assert await execute(app, count) == [(1,)]


@pytest.mark.parametrize("reply", [b"stream: Can't allocate memory ERROR\0", b"", b"\0"])
async def test_an_answer_that_is_no_result_is_no_clean_file(reply: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(10)
        writer.write(reply)
        await writer.drain()
        writer.close()

    async def parts() -> AsyncIterator[bytes]:
        yield PNG

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(clamav.ScanFailed):
        await clamav.find_malware(address, parts())
    server.close()


async def test_the_clean_up_leaves_an_upload_that_a_request_holds(
    client: httpx2.AsyncClient, app: FastAPI
) -> None:
    for _ in range(2):
        await upload(client, PNG)
    db = app.state.db
    async with db.engine.begin() as request, db.transaction() as session:
        await request.execute(text("SELECT FROM uploads LIMIT 1 FOR UPDATE"))
        await session.execute(text("SET LOCAL lock_timeout = '1s'"))
        assert await uploads.expire(session, ttl=0, limit=10) == 1


async def test_the_clean_up_is_a_scheduled_job(client: httpx2.AsyncClient, app: FastAPI) -> None:
    assert "uploads.clean" in {each.name for each in registry.scheduled()}
    await upload(client, PNG)
    await execute(app, "UPDATE uploads SET changed_at = now() - interval '1 year'")
    cleaned = await upload_jobs.clean(cast("Any", Context(app)))
    assert cleaned == {"uploads": 1, "objects": 0, "parts": 0}
    assert (await client.get(FILES)).json() == []


def test_an_address_without_a_port_is_refused(module_settings: Settings) -> None:
    with pytest.raises(ValidationError, match="write it as host:port"):
        Settings(**{**module_settings.model_dump(), "clamav_address": "clamav"})
