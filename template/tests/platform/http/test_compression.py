"""Content negotiation: gzip where it is accepted, and validators that fit it."""

from typing import Annotated

import httpx2
import pytest
from fastapi import Body, FastAPI

from app.platform.http import compression, conditional, problems, routing
from app.platform.http.compression import GZIP_MIN_SIZE
from app.platform.http.conditional import ConditionalRequestDep
from app.platform.settings import offline_settings
from app.settings import Settings
from tests.conftest import client_for

LARGE = "x" * GZIP_MIN_SIZE


def build_client() -> httpx2.AsyncClient:
    """A client of an app with a large text and a small one, both of version 1."""
    app, settings = FastAPI(), offline_settings(Settings)
    for component in (problems, conditional, compression):
        component.setup(app, settings)

    async def large(condition: ConditionalRequestDep) -> str:
        condition.check_not_modified(etag="1")
        return LARGE

    async def small(condition: ConditionalRequestDep) -> str:
        condition.check_not_modified(etag="1")
        return "x"

    async def change(condition: ConditionalRequestDep, text: Annotated[str, Body()]) -> str:
        condition.check_if_match(etag="1")
        return text

    app.add_api_route("/large", large)
    app.add_api_route("/small", small)
    app.add_api_route("/large", change, methods=["PUT"])
    routing.install_index(app)
    return client_for(app)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate, gzip;q=0.5", "gzip"),
        ("GZIP;Q=1.000", "gzip"),
        ("x-gzip", "gzip"),
        ("*", "gzip"),
        ("gzip, identity;q=0.5", "gzip"),
        ("gzip, identity;q=0", "gzip"),
        ("", None),
        ("identity", None),
        ("gzip;q=0", None),
        ("gzip ; q=0.000", None),
        ("*;q=1, gzip;q=0", None),
        ("gzip;q=0.5, identity", None),
        ("br, zstd", None),
        ("gzip2, notgzip", None),
        ("gzip;q=nan", None),
        ("gzip;level=9;q=0", None),
    ],
)
async def test_a_response_has_the_coding_that_the_client_prefers(
    accepted: str, coding: str | None
) -> None:
    async with build_client() as client:
        response = await client.get("/large", headers={"Accept-Encoding": accepted})
    assert response.headers.get("Content-Encoding") == coding
    assert response.headers["Vary"] == "Accept-Encoding"
    assert response.json() == LARGE


async def test_several_accept_encoding_lines_are_one_list() -> None:
    async with build_client() as client:
        lines = [("Accept-Encoding", "br"), ("Accept-Encoding", "gzip")]
        response = await client.get("/large", headers=lines)
    assert response.headers["Content-Encoding"] == "gzip"


async def test_a_small_response_is_compressed_only_if_it_has_to_be() -> None:
    async with build_client() as client:
        plain = await client.get("/small", headers={"Accept-Encoding": "gzip"})
        compressed = await client.get("/small", headers={"Accept-Encoding": "gzip, *;q=0"})
    assert "Content-Encoding" not in plain.headers
    assert plain.headers["Vary"] == "Accept-Encoding"
    assert compressed.headers["Content-Encoding"] == "gzip"


@pytest.mark.parametrize("accepted", ["*;q=0", "identity;q=0", "identity;q=0, gzip;q=0, br"])
async def test_a_client_that_accepts_no_coding_is_refused(accepted: str) -> None:
    async with build_client() as client:
        response = await client.get("/large", headers={"Accept-Encoding": accepted})
    assert response.status_code == 406
    assert response.json()["code"] == "not_acceptable"


async def test_each_representation_has_its_own_etag_and_is_revalidated_by_it() -> None:
    async with build_client() as client:
        for accepted, etag in (("identity", '"1"'), ("gzip", '"1-gzip"')):
            headers = {"Accept-Encoding": accepted}
            first = await client.get("/large", headers=headers)
            assert first.headers["ETag"] == etag
            again = await client.get("/large", headers=headers | {"If-None-Match": etag})
            assert (again.status_code, again.headers["ETag"]) == (304, etag)
            assert again.headers["Vary"] == "Accept-Encoding"

        other = {"Accept-Encoding": "identity", "If-None-Match": '"1-gzip"'}
        assert (await client.get("/large", headers=other)).status_code == 200


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ('"1"', 200),
        ('"1-gzip"', 200),
        ('W/"1"', 200),
        ('W/"1-gzip"', 200),
        ("*", 200),
        ('"0", "1"', 200),
        ('"0"', 412),
        ('"0-gzip"', 412),
        ("1", 412),
        ("", 412),
    ],
)
async def test_any_form_of_the_etag_permits_a_change_of_its_version(
    condition: str, status: int
) -> None:
    async with build_client() as client:
        response = await client.put("/large", json="y", headers={"If-Match": condition})
    assert response.status_code == status


@pytest.mark.parametrize("position", [0, 1])
async def test_every_line_of_a_condition_counts(position: int) -> None:
    tags = ['"0"', '"0, 2"']
    tags.insert(position, '"1"')
    async with build_client() as client:
        unchanged = await client.get("/small", headers=[("If-None-Match", tag) for tag in tags])
        lines = [("If-Match", tag) for tag in tags]
        changed = await client.put("/large", json="y", headers=lines)
    assert (unchanged.status_code, changed.status_code) == (304, 200)


@pytest.mark.parametrize("name", ["If-None-Match", "If-Unmodified-Since"])
async def test_a_change_under_another_failing_condition_is_refused(name: str) -> None:
    value = "*" if name == "If-None-Match" else "Fri, 31 Dec 2100 23:59:59 GMT"
    async with build_client() as client:
        response = await client.put("/large", json="y", headers={name: value})
    assert response.status_code == 412


async def test_the_service_compresses(app: FastAPI) -> None:
    async def large() -> str:
        return LARGE

    app.add_api_route("/large", large)
    async with client_for(app) as client:
        response = await client.get("/large", headers={"Accept-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
