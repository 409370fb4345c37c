"""Uploads in a bucket: an S3 server that verifies signatures, and links that it refuses to bend."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import httpx2
import pytest
from botocore.exceptions import ClientError
from fastapi import FastAPI

from app.platform.data import upload_cleanup
from app.settings import Settings
from tests.conftest import client_for
from tests.s3 import BUCKET, running_s3
from tests.uploading import HTML, PNG, execute, uploading_app

FILES = "/test/orders:7/files"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An S3 server, with credentials for it in the environment."""
    with (
        running_s3(tmp_path_factory.mktemp("s3")) as variables,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
async def app(s3: None, fresh_settings: Settings) -> AsyncIterator[FastAPI]:
    changes = {"uploads_url": f"s3://{BUCKET}/some/{uuid4()}", "uploads_max_size": 50_000_000}
    async with uploading_app(fresh_settings, **changes, rate_limit=None) as app:
        yield app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(app) as client:
        yield client


async def link(client: httpx2.AsyncClient, data: bytes = PNG, **changes: Any) -> Any:
    body = {"name": "a.png", "media_type": "image/png", "size": len(data)}
    body |= {"sha256": sha256(data).hexdigest(), **changes}
    answer = await client.post(f"{FILES}/links", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def put(given: Any, data: bytes, url: str = "", **headers: str) -> int:
    async with httpx2.AsyncClient() as client:
        sent = {**given["headers"], **headers}
        answer = await client.put(url or given["url"], content=data, headers=sent)
    return answer.status_code


async def complete(client: httpx2.AsyncClient, given: Any) -> httpx2.Response:
    return await client.post(f"{FILES}/{given['id']}/completion")


async def test_a_file_is_streamed_to_the_bucket_and_back(client: httpx2.AsyncClient) -> None:
    data = PNG + bytes(30_000_000)  # several parts
    answer = await client.post(FILES, params={"name": "a.png"}, content=data)
    assert answer.status_code == 201, answer.text
    path = f"{FILES}/{answer.json()['id']}"
    assert (await client.get(path)).content == data
    part = await client.get(path, headers={"Range": "bytes=-5", "Accept-Encoding": "identity"})
    assert (part.status_code, part.content) == (206, data[-5:])
    given = (await client.get(f"{path}/link")).json()
    async with httpx2.AsyncClient() as stranger:
        assert (await stranger.get(given["url"])).content == data
    assert (await client.delete(path)).status_code == 204
    async with httpx2.AsyncClient() as stranger:
        assert (await stranger.get(given["url"])).status_code == 404


async def test_the_client_sends_a_file_to_the_bucket_itself(client: httpx2.AsyncClient) -> None:
    given = await link(client)
    path = f"{FILES}/{given['id']}"
    assert (await complete(client, given)).status_code == 409
    assert await put(given, PNG) == 200
    assert (await client.get(path)).status_code == 409
    for _ in range(2):  # a repeated request has the same answer
        answer = await complete(client, given)
        assert (answer.status_code, answer.json()["state"]) == (200, "stored")
    assert (await client.get(path)).content == PNG


async def test_a_link_can_not_be_used_for_another_size_type_checksum_or_object(
    client: httpx2.AsyncClient,
) -> None:
    given, other = await link(client), await link(client)
    other_key = urlsplit(other["url"]).path.rpartition("/")[2]
    own_key = urlsplit(given["url"]).path.rpartition("/")[2]
    elsewhere = given["url"].replace(own_key, other_key)
    foreign = {"x-amz-checksum-sha256": other["headers"]["x-amz-checksum-sha256"][::-1]}
    assert await put(given, PNG + b"x") == 403
    assert await put(given, PNG[:-1]) == 403
    assert await put(given, PNG, **{"Content-Type": "text/html"}) == 403
    assert await put(given, PNG, **foreign) == 403
    assert await put(given, PNG, url=elsewhere) == 403
    assert await put({"headers": {}}, PNG, url=given["url"]) == 403
    assert await put(given, PNG) == 200


async def test_everything_that_a_link_is_for_is_signed(client: httpx2.AsyncClient) -> None:
    query = parse_qs(urlsplit((await link(client))["url"]).query)
    [signed] = query["X-Amz-SignedHeaders"]
    conditions = "content-length;content-type;host;if-none-match;x-amz-checksum-sha256"
    assert signed == conditions
    assert query["X-Amz-Expires"] == ["300"]


async def test_other_contents_of_the_same_size_are_refused_at_the_latest_on_completion(
    client: httpx2.AsyncClient, app: FastAPI
) -> None:
    # S3 verifies x-amz-checksum-sha256 itself; this server does not.
    for data, reason in ((PNG[:-1] + b"x", "another SHA-256"), (HTML, "not of type image/png")):
        given = await link(client, PNG if data[:4] == PNG[:4] else HTML)
        await put(given, data)
        answer = await complete(client, given)
        assert (answer.status_code, answer.json()["code"]) == (422, "upload_refused")
        assert reason in answer.json()["detail"]
        assert await keys(app) == []
    assert [each["state"] for each in (await client.get(FILES)).json()] == ["failed", "failed"]


async def test_a_link_is_refused_for_a_type_or_size_that_is_not_accepted(
    client: httpx2.AsyncClient,
) -> None:
    body = {"name": "a", "media_type": "image/png", "size": 5, "sha256": "0" * 64}
    for change in ({"media_type": "text/html"}, {"size": 50_000_001}):
        answer = await client.post(f"{FILES}/links", json={**body, **change})
        assert (answer.status_code, answer.json()["code"]) == (422, "upload_refused")


async def keys(app: FastAPI) -> list[str]:
    return [key async for batch in app.state.uploads.store.list_keys() for key, _ in batch]


async def test_the_clean_up_deletes_files_nobody_completed_and_parts_of_killed_uploads(
    client: httpx2.AsyncClient, app: FastAPI
) -> None:
    kept = await client.post(FILES, params={"name": "a.png"}, content=PNG)
    given = await link(client)
    await put(given, PNG)
    store: Any = app.state.uploads.store
    begun: Any = await asyncio.to_thread(
        store._s3.create_multipart_upload, **store._object("0" * 32)
    )
    assert len(await keys(app)) == 2
    settings = app.state.settings
    for ttl, uploads, parts in ((3600, 0, 0), (-5, 1, 1)):
        changed = settings.model_copy(update={"uploads_pending_ttl": ttl})
        cleaned = await upload_cleanup.clean(app.state.db, store, changed, 60)
        assert (cleaned.uploads, cleaned.parts) == (uploads, parts)
    assert await keys(app) == [kept.json()["id"].replace("-", "")]
    with pytest.raises(ClientError):
        await asyncio.to_thread(
            store._s3.list_parts, **store._object("0" * 32), UploadId=begun["UploadId"]
        )


async def test_a_bucket_that_is_away_is_unavailable(
    client: httpx2.AsyncClient, app: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    settings = app.state.settings
    async with uploading_app(settings) as other, client_for(other) as stranger:
        answer = await stranger.post(FILES, params={"name": "a.png"}, content=PNG)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "secret" not in answer.text
    [row] = await execute(app, "SELECT state FROM uploads")
    assert row.state == "failed"
