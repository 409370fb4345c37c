"""Modification dates as validators: only once no later change can have the same one."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx2
import pytest
from fastapi import FastAPI

from app.platform.http import conditional
from app.platform.http.conditional import ConditionalRequestDep, digest
from app.platform.settings import offline_settings
from app.settings import Settings
from tests.conftest import client_for

LONG_AGO = datetime(2020, 12, 31, 23, 59, 59, 900_000, tzinfo=UTC)


def build_client(modified: datetime) -> httpx2.AsyncClient:
    app = FastAPI()
    conditional.setup(app, offline_settings(Settings))

    async def read(condition: ConditionalRequestDep) -> str:
        condition.check_not_modified(etag="1", modified=modified)
        return "text"

    app.add_api_route("/", read)
    return client_for(app)


async def test_a_cached_response_is_revalidated_by_its_date() -> None:
    async with build_client(LONG_AGO) as client:
        first = await client.get("/")
        since = {"If-Modified-Since": first.headers["Last-Modified"]}
        assert first.headers["Last-Modified"] == "Thu, 31 Dec 2020 23:59:59 GMT"
        assert (await client.get("/", headers=since)).status_code == 304


async def test_a_change_within_the_same_second_is_never_answered_with_304() -> None:
    """Whatever the client remembers: the date of the change, or that of an earlier response."""
    modified = datetime.now(UTC) - timedelta(seconds=30)
    async with build_client(modified) as client:
        for seconds in (0, 1, 30):
            date = (modified + timedelta(seconds=seconds)).strftime("%a, %d %b %Y %H:%M:%S GMT")
            response = await client.get("/", headers={"If-Modified-Since": date})
            assert response.status_code == 200
            assert "Last-Modified" not in response.headers
            assert "ETag" in response.headers


@pytest.mark.parametrize(
    "since",
    [
        ["Fri, 31 Dec 9999 23:59:59 GMT"],
        ["Mon, 01 Jan 99999999999 00:00:00 GMT"],
        ["Fri, 31 Dec 2020 99999999999999999999:59:59 GMT"],
        ["Fri, 31 Dec 2020 23:59:59 +999999999999"],
        ["yesterday"],
        [""],
        ["Thu, 31 Dec 2020 23:59:59 GMT", "Thu, 31 Dec 2020 23:59:59 GMT"],
    ],
)
async def test_an_invalid_if_modified_since_is_ignored(since: list[str]) -> None:
    async with build_client(LONG_AGO) as client:
        lines = [("If-Modified-Since", value) for value in since]
        assert (await client.get("/", headers=lines)).status_code == 200


async def test_if_none_match_takes_precedence_over_the_date() -> None:
    conditions = {
        "If-None-Match": '"0"',
        "If-Modified-Since": "Thu, 31 Dec 2020 23:59:59 GMT",
    }
    async with build_client(LONG_AGO) as client:
        assert (await client.get("/", headers=conditions)).status_code == 200


def test_the_etag_of_a_list_depends_on_each_of_its_parts() -> None:
    tags = {digest(["a", 1], None), digest(["a", 2], None), digest(["a", 1], "next"), digest([])}
    assert len(tags) == 4


def test_the_etag_of_a_list_has_parts_of_any_type() -> None:
    parts = [UUID(int=1), UUID(int=2), b"\xfe", b"\xff", LONG_AGO, object(), object(), None, "None"]
    assert len({digest(part) for part in parts}) == len(parts)
