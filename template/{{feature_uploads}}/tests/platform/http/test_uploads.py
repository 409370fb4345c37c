"""Uploads through the service: what is accepted, what becomes of it, who may read it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from app.platform.data import upload_cleanup
from app.platform.data.object_store import CONCURRENT_DELETES, ObjectStore
from app.platform.http import uploads
from app.settings import Settings
from tests.conftest import client_for
from tests.uploading import HTML, PNG, execute, objects, uploading_app

FILES = "/test/orders:7/files"
SETTINGS = {"uploads_max_size": 20_000_000, "uploads_per_record": 3, "rate_limit": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
async def shared(module_settings: Settings, folder: Path) -> AsyncIterator[FastAPI]:
    async with uploading_app(module_settings, uploads_url=folder.as_uri(), **SETTINGS) as app:
        yield app


@pytest.fixture
async def app(shared: FastAPI, folder: Path) -> FastAPI:
    await execute(shared, "DELETE FROM uploads")
    empty(folder)
    return shared


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(app) as client:
        yield client


async def hang(_key: str) -> None:
    await asyncio.Event().wait()


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@contextmanager
def broken(folder: Path) -> Iterator[None]:
    """A file in place of the folder: nothing can be written or deleted below it."""
    hidden = folder.rename(folder.with_name("elsewhere"))
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()
        hidden.rename(folder)


async def upload(client: httpx2.AsyncClient, data: bytes = PNG, name: str = "a.png") -> Any:
    answer = await client.post(FILES, params={"name": name}, content=data)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def clean(app: FastAPI, **changes: Any) -> upload_cleanup.Cleaned:
    """Clean up as if everything were old."""
    settings = app.state.settings.model_copy(update={"uploads_pending_ttl": -5, **changes})
    return await upload_cleanup.clean(app.state.db, app.state.uploads.store, settings, 60)


async def test_a_file_is_stored_with_its_size_type_and_checksum(
    client: httpx2.AsyncClient, folder: Path
) -> None:
    data = PNG + bytes(10_000_000)
    stored = await upload(client, data, "../evil/page.html")
    assert stored["state"] == "stored"
    assert (stored["size"], stored["media_type"]) == (len(data), "image/png")
    assert stored["sha256"] == sha256(data).hexdigest()
    assert stored["name"] == "page.html.png"
    assert objects(folder) == [stored["id"].replace("-", "")]
    answer = await client.get(f"{FILES}/{stored['id']}")
    assert answer.content == data
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="page.html.png"')
    assert answer.headers["ETag"].strip('"').startswith(stored["sha256"])


async def test_a_page_that_is_named_as_a_picture_is_refused(
    client: httpx2.AsyncClient, folder: Path
) -> None:
    headers = {"Content-Type": "image/png"}
    answer = await client.post(FILES, params={"name": "a.png"}, content=HTML, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert objects(folder) == []
    [failed] = (await client.get(FILES)).json()
    assert (failed["state"], failed["size"]) == ("failed", None)
    assert "none of these types" in failed["reason"]


@pytest.mark.parametrize("declared", [True, False])
async def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(
    client: httpx2.AsyncClient, folder: Path, declared: bool
) -> None:
    data = PNG + bytes(20_000_000)

    async def chunks() -> AsyncIterator[bytes]:
        yield data

    answer = await client.post(
        FILES, params={"name": "a.png"}, content=data if declared else chunks()
    )
    assert answer.status_code == 413
    assert objects(folder) == []
    assert [each["reason"] for each in (await client.get(FILES)).json()] == [
        "The file is too large."
    ]


async def test_other_routes_keep_the_limit_of_the_core(client: httpx2.AsyncClient) -> None:
    answer = await client.post(f"{FILES}/links", content=bytes(2_000_000))
    assert answer.status_code == 413


async def test_a_file_that_is_called_json_is_refused_since_its_check_would_keep_it_in_memory(
    client: httpx2.AsyncClient,
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await client.post(FILES, params={"name": "a.png"}, content=PNG, headers=headers)
    assert answer.status_code == 415
    assert (await client.get(FILES)).json() == []


async def test_a_record_has_a_limited_number_of_files(client: httpx2.AsyncClient) -> None:
    for _ in range(3):
        await upload(client)
    answer = await client.post(FILES, params={"name": "a.png"}, content=PNG)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


async def test_nothing_is_stored_for_a_record_that_may_not_be_changed(
    client: httpx2.AsyncClient, folder: Path
) -> None:
    answer = await client.post("/test/missing/files", params={"name": "a.png"}, content=PNG)
    assert answer.status_code == 404
    assert objects(folder) == []


REQUESTS = (("GET", ""), ("DELETE", ""), ("GET", "/link"), ("POST", "/completion"))


async def test_a_file_of_another_owner_or_record_is_not_found(client: httpx2.AsyncClient) -> None:
    mine = await upload(client)
    others = [(FILES, {"x-owner": "bob"}), ("/test/orders:8/files", {})]
    for path, headers in others:
        assert (await client.get(path, headers=headers)).json() == []
        for method, tail in (
            ("GET", ""),
            ("DELETE", ""),
            ("GET", "/link"),
            ("POST", "/completion"),
        ):
            answer = await client.request(method, f"{path}/{mine['id']}{tail}", headers=headers)
            assert answer.status_code == 404, (method, tail)
    assert (await client.get(f"{FILES}/{mine['id']}")).content == PNG


RANGES = {
    "bytes=0-7": (206, PNG[:8], f"bytes 0-7/{len(PNG)}"),
    "bytes=8-": (206, PNG[8:], f"bytes 8-{len(PNG) - 1}/{len(PNG)}"),
    "bytes=-4": (206, PNG[-4:], f"bytes {len(PNG) - 4}-{len(PNG) - 1}/{len(PNG)}"),
    "bytes=2-99999": (206, PNG[2:], f"bytes 2-{len(PNG) - 1}/{len(PNG)}"),
    "bytes=-99999": (206, PNG, f"bytes 0-{len(PNG) - 1}/{len(PNG)}"),
    "bytes=99999-": (416, None, f"bytes */{len(PNG)}"),
    "bytes=-0": (416, None, f"bytes */{len(PNG)}"),
    "bytes=5-2": (200, PNG, None),
    "bytes=0-1,4-5": (200, PNG, None),
    "bytes=-": (200, PNG, None),
    "lines=0-1": (200, PNG, None),
}


async def test_ranges(client: httpx2.AsyncClient) -> None:
    path = f"{FILES}/{(await upload(client))['id']}"
    for given, (status, content, content_range) in RANGES.items():
        headers = {"Range": given, "Accept-Encoding": "identity"}
        answer = await client.get(path, headers=headers)
        assert (answer.status_code, answer.headers.get("Content-Range")) == (
            status,
            content_range,
        ), given
        assert content is None or answer.content == content, given
        assert content is None or answer.headers["Content-Length"] == str(len(content))


async def test_a_range_is_of_the_file_that_the_client_has(client: httpx2.AsyncClient) -> None:
    path = f"{FILES}/{(await upload(client))['id']}"
    headers = {"Range": "bytes=0-7", "Accept-Encoding": "identity"}
    etag = (await client.get(path, headers=headers)).headers["ETag"]
    same = await client.get(path, headers={**headers, "If-Range": etag})
    other = await client.get(path, headers={**headers, "If-Range": '"other"'})
    assert (same.status_code, other.status_code) == (206, 200)
    cached = await client.get(path, headers={**headers, "If-None-Match": etag})
    assert cached.status_code == 304


async def test_a_compressed_file_is_not_continued_with_a_range(client: httpx2.AsyncClient) -> None:
    path = f"{FILES}/{(await upload(client, PNG + bytes(5000)))['id']}"
    # As for a PDF: Starlette compresses no pictures.
    compressed = (await client.get(path)).headers["ETag"][:-1] + '-gzip"'
    headers = {"Range": "bytes=10-", "If-Range": compressed, "Accept-Encoding": "gzip"}
    assert (await client.get(path, headers=headers)).status_code == 200


async def test_the_head_of_a_file_is_sent_without_reading_it(
    client: httpx2.AsyncClient, folder: Path
) -> None:
    stored = await upload(client)
    (folder / stored["id"].replace("-", "")).unlink()
    answer = await client.head(f"{FILES}/{stored['id']}")
    assert (answer.status_code, answer.headers["Content-Length"]) == (200, str(len(PNG)))


async def test_a_file_that_is_lost_is_not_found(client: httpx2.AsyncClient, folder: Path) -> None:
    stored = await upload(client)
    empty(folder)
    answer = await client.get(f"{FILES}/{stored['id']}")
    assert (answer.status_code, answer.json()["detail"]) == (404, "The file is lost.")


async def test_a_clean_up_begins_no_batch_after_its_time(
    client: httpx2.AsyncClient, app: FastAPI
) -> None:
    await upload(client)
    arguments = app.state.db, app.state.uploads.store, app.state.settings
    for state in ("pending", "deleted"):
        old = f"UPDATE uploads SET state = '{state}', changed_at = now() - interval '1 year'"
        await execute(app, old)
        cleaned = await upload_cleanup.clean(*arguments, seconds=0)
        assert cleaned.uploads == 0
        assert await execute(app, "SELECT state FROM uploads") == [(state,)]


async def test_a_file_is_deleted_with_the_transaction(
    client: httpx2.AsyncClient, folder: Path, app: FastAPI
) -> None:
    path = f"{FILES}/{(await upload(client))['id']}"
    assert (await client.delete(path, params={"fail": True})).status_code == 404
    assert (await client.get(path)).content == PNG
    assert (await client.delete(path)).status_code == 204
    assert objects(folder) == []
    assert (await client.get(path)).status_code == 404
    assert await execute(app, "SELECT id FROM uploads") == []


async def test_an_object_that_could_not_be_deleted_is_deleted_by_the_clean_up(
    client: httpx2.AsyncClient, folder: Path, app: FastAPI
) -> None:
    path = f"{FILES}/{(await upload(client))['id']}"
    with broken(folder):
        assert (await client.delete(path)).status_code == 204
    assert len(objects(folder)) == 1
    assert (await client.get(path)).status_code == 404
    assert (await clean(app)).uploads == 1
    assert objects(folder) == []


async def test_the_response_to_a_deletion_does_not_wait_for_a_storage_that_hangs(
    client: httpx2.AsyncClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{FILES}/{(await upload(client))['id']}"
    monkeypatch.setattr(uploads, "REMOVE_TIMEOUT", 0.01)
    monkeypatch.setattr(app.state.uploads.store, "delete", hang)
    assert (await client.delete(path)).status_code == 204


async def test_a_clean_up_that_is_cut_off_has_made_progress(
    client: httpx2.AsyncClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, rows = app.state.uploads.store, 2 * CONCURRENT_DELETES
    insert = "INSERT INTO uploads (id, owner, record, name, state) SELECT gen_random_uuid(),"
    await execute(app, f"{insert} 'a', 'b', 'c', 'deleted' FROM generate_series(1, {rows})")
    begun = asyncio.Semaphore(0)
    quick = iter(range(CONCURRENT_DELETES))

    async def slow(key: str) -> None:
        begun.release()
        if next(quick, None) is None:
            await hang(key)

    monkeypatch.setattr(store, "delete", slow)
    task = asyncio.create_task(clean(app))
    for _ in range(rows):
        await begun.acquire()
    task.cancel()
    await asyncio.wait([task])
    assert await execute(app, "SELECT count(*) FROM uploads") == [(rows - CONCURRENT_DELETES,)]


async def test_a_process_receives_a_limited_number_of_uploads_at_once(
    client: httpx2.AsyncClient, app: FastAPI
) -> None:
    half = app.state.settings.uploads_limit // 2
    waiting, release = asyncio.Semaphore(0), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield PNG
        waiting.release()
        await release.wait()

    async def send(owner: str, number: int, body: Any = PNG) -> httpx2.Response:
        url, headers = FILES.replace("7", f"{owner}{number}"), {"x-owner": owner}
        return await client.post(url, params={"name": "a.png"}, content=body, headers=headers)

    async with asyncio.TaskGroup() as group:
        uploads = [group.create_task(send("ada", number, slow())) for number in range(half)]
        for _ in uploads:
            await waiting.acquire()
        refused = await send("ada", half)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "10")
        uploads += [group.create_task(send("bob", number, slow())) for number in range(half)]
        for _ in range(half):
            await waiting.acquire()
        refused = await send("eve", 0)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        release.set()
    assert {upload.result().status_code for upload in uploads} == {201}
    assert (await send("ada", half)).status_code == 201
    assert await execute(app, "SELECT count(*) FROM uploads") == [(2 * half + 1,)]


async def test_a_client_that_stops_sending_is_given_up(
    client: httpx2.AsyncClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield PNG
        await asyncio.Event().wait()

    monkeypatch.setattr(uploads, "STALL_TIMEOUT", 0.05)
    answer = await client.post(FILES, params={"name": "a.png"}, content=body())
    assert (answer.status_code, answer.json()["code"]) == (408, "request_timeout")
    assert objects(folder) == []


async def test_an_upload_whose_connection_is_lost_leaves_nothing(
    folder: Path, app: FastAPI
) -> None:
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": FILES,
        "raw_path": FILES.encode(),
        "root_path": "",
        "query_string": b"name=a.png",
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
        "headers": [(b"host", b"test"), (b"content-length", b"20000000")],
        "state": {},
    }
    messages: list[Any] = [
        {"type": "http.request", "body": PNG + bytes(9_000_000), "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 400
    assert objects(folder) == []
    [[state, reason]] = await execute(app, "SELECT state, reason FROM uploads")
    assert (state, "lost" in reason) == ("failed", True)
    await clean(app)
    assert await execute(app, "SELECT id FROM uploads") == []


async def test_a_file_that_is_deleted_while_it_arrives_leaves_nothing(
    client: httpx2.AsyncClient, folder: Path, app: FastAPI
) -> None:
    begun, deleted = asyncio.Event(), asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield PNG + bytes(5000)
        begun.set()
        await deleted.wait()
        yield bytes(5000)

    async def delete() -> None:
        await begun.wait()
        await execute(app, "UPDATE uploads SET state = 'deleted'")
        deleted.set()

    deletion = asyncio.create_task(delete())
    answer = await client.post(FILES, params={"name": "a.png"}, content=chunks())
    await deletion
    assert answer.status_code == 404
    await clean(app)
    assert objects(folder) == []
    assert await execute(app, "SELECT id FROM uploads") == []


async def test_the_clean_up_deletes_what_has_no_use_and_nothing_else(
    client: httpx2.AsyncClient, folder: Path, app: FastAPI
) -> None:
    kept = await upload(client)
    stale = await upload(client)
    await execute(
        app,
        "UPDATE uploads SET state = 'pending', received_at = NULL WHERE id = :id",
        id=stale["id"],
    )
    orphan, partial, foreign = uuid4().hex, f"{uuid4().hex}#1", "notes.txt"
    for name in (orphan, partial, foreign):
        (folder / name).write_bytes(PNG)
    young = await clean(app, uploads_pending_ttl=3600)
    assert (young.uploads, young.objects, young.parts) == (0, 0, 0)
    cleaned = await clean(app)
    assert (cleaned.uploads, cleaned.objects, cleaned.parts) == (1, 1, 1)
    assert objects(folder) == sorted([kept["id"].replace("-", ""), foreign])
    assert (await client.get(f"{FILES}/{kept['id']}")).content == PNG


async def test_the_clean_up_deletes_no_object_of_another_database(
    folder: Path, app: FastAPI
) -> None:
    (folder / uuid4().hex).write_bytes(PNG)
    assert (await clean(app)).objects == 0
    assert len(objects(folder)) == 1


async def test_a_folder_has_no_links(client: httpx2.AsyncClient) -> None:
    data = {"name": "a.png", "media_type": "image/png", "size": 5, "sha256": "0" * 64}
    answer = await client.post(f"{FILES}/links", json=data)
    assert (answer.status_code, answer.json()["code"]) == (409, "upload_links_unavailable")
    stored = await upload(client)
    answer = await client.get(f"{FILES}/{stored['id']}/link")
    assert (answer.status_code, answer.json()["code"]) == (409, "upload_links_unavailable")


async def test_storage_that_fails_is_unavailable_and_the_log_says_why(
    client: httpx2.AsyncClient, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with broken(folder):
        answer = await client.post(FILES, params={"name": "a.png"}, content=PNG)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    reasons = [line["reason"] for line in lines if line["event"] == "storage unavailable"]
    assert reasons
    assert all("Error: " in reason for reason in reasons)


INVALID = {
    "": "is missing",
    "s3://": "write it as",
    "uploads": "write it as",
    "file://host/folder": "write it as",
    "https://bucket.example.com": "write it as",
    "s3://bucket?region=x": "write it as",
}


@pytest.mark.parametrize(("url", "message"), INVALID.items())
def test_an_invalid_storage_is_refused_at_start(
    module_settings: Settings, url: str, message: str
) -> None:
    values = {**module_settings.model_dump(), "environment": "production", "uploads_url": url}
    with pytest.raises(ValidationError, match=message):
        Settings(**values)


def test_a_function_refuses_a_folder_that_is_lost_with_it(
    module_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders")
    values = module_settings.model_dump()
    for url in ("s3://bucket/prefix", "file:///mnt/files/uploads"):
        assert Settings(**{**values, "uploads_url": url}).uploads_url == url
    with pytest.raises(ValidationError, match="lost with its instance"):
        Settings(**{**values, "uploads_url": "file:///tmp/uploads"})


def test_types_that_can_not_be_recognized_and_times_that_do_not_fit_are_refused(
    module_settings: Settings,
) -> None:
    values = module_settings.model_dump()
    with pytest.raises(ValidationError, match="text/html can't be recognized"):
        Settings(**{**values, "uploads_types": "image/png,text/html"})
    with pytest.raises(ValidationError, match="UPLOADS_PENDING_TTL must be longer"):
        Settings(**{**values, "uploads_pending_ttl": 60})


async def test_uploads_are_counted(client: httpx2.AsyncClient, app: FastAPI) -> None:
    registry = app.state.metrics.registry
    before = registry.get_sample_value("upload_bytes_total") or 0
    await upload(client)
    assert registry.get_sample_value("upload_bytes_total") == before + len(PNG)
    assert registry.get_sample_value("uploads_total", {"outcome": "stored"})


def test_a_storage_in_a_folder_is_private(tmp_path: Path, module_settings: Settings) -> None:
    folder = tmp_path / "new" / "uploads"
    ObjectStore(module_settings.model_copy(update={"uploads_url": folder.as_uri()}))
    assert folder.stat().st_mode & 0o077 == 0


async def test_the_document_says_that_the_body_is_a_file(app: FastAPI) -> None:
    body = json.dumps(app.openapi()["paths"]["/test/{record}/files"]["post"]["requestBody"])
    assert "application/octet-stream" in body
