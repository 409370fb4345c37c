"""API versions and the marks of a deprecated one."""

from datetime import UTC, datetime

import pytest
from fastapi import APIRouter, FastAPI, Request, Response

from app import api
from app.main import create_app
from app.platform.base.errors import NotFound
from app.platform.http import versioning
from app.settings import Settings
from tests.conftest import client_for, running_app

router = APIRouter()


@router.get("/thing")
async def thing() -> int:
    return 1


@router.post("/thing")
async def make_thing(request: Request, response: Response) -> None:
    response.headers["Location"] = versioning.location(request, "/thing/7")


@router.get("/missing")
async def missing() -> int:
    raise NotFound("There is no such thing.")


@pytest.fixture
def two_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    old = versioning.Version(
        "v1",
        (router,),
        versioning.Deprecation(
            since=datetime(2026, 1, 1, tzinfo=UTC),
            sunset=datetime(2027, 1, 1, tzinfo=UTC),
            successor="/api/v2",
        ),
    )
    monkeypatch.setattr(api, "VERSIONS", (old, versioning.Version("v2", (router,))))


@pytest.mark.usefixtures("two_versions")
async def test_a_deprecated_version_is_marked_in_responses_and_openapi(settings: Settings) -> None:
    async with running_app(settings) as app, client_for(app) as client:
        for path in ("thing", "missing", "unknown"):
            old = await client.get(f"/api/v1/{path}")
            assert old.headers["Deprecation"] == "@1767225600"
            assert old.headers["Sunset"] == "Fri, 01 Jan 2027 00:00:00 GMT"
            assert old.headers["Link"] == '</api/v2>; rel="successor-version"'
            new = await client.get(f"/api/v2/{path}")
            assert new.status_code == old.status_code
            assert "Deprecation" not in new.headers
        paths = app.openapi()["paths"]
        assert paths["/api/v1/thing"]["get"]["deprecated"] is True
        assert "deprecated" not in paths["/api/v2/thing"]["get"]


@pytest.mark.usefixtures("two_versions")
async def test_the_usage_of_a_deprecated_version_is_a_metric(settings: Settings) -> None:
    async with running_app(settings) as app, client_for(app) as client:
        for path in ("/api/v1/thing", "/api/v1/thing", "/api/v2/thing"):
            await client.get(path)
        text = (await client.get("/metrics")).text
    for version, count in (("v1", 2.0), ("v2", 1.0)):
        labels = f'method="GET",route="/api/{version}/thing",status="200"'
        assert f"http_server_request_duration_seconds_count{{{labels}}} {count}" in text


@pytest.mark.usefixtures("two_versions")
async def test_a_location_is_in_the_version_that_was_called(settings: Settings) -> None:
    async with running_app(settings) as app, client_for(app) as client:
        app.include_router(router)
        for path, expected in (
            ("/api/v1/thing", "/api/v1/thing/7"),
            ("/api/v2/thing", "/api/v2/thing/7"),
            ("/thing", "/api/v1/thing/7"),
        ):
            assert (await client.post(path)).headers["Location"] == expected


@pytest.mark.usefixtures("two_versions")
async def test_operation_ids_are_short_and_a_new_version_renames_none(settings: Settings) -> None:
    document = create_app(settings).openapi()
    ids = {
        (path, method): operation["operationId"]
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    assert ids["/api/v1/thing", "get"] == "thing"
    assert ids["/api/v1/thing", "post"] == "make_thing"
    assert ids["/api/v2/thing", "get"] == "thing_v2"
    assert ids["/health/live", "get"] == "live"


async def test_no_middleware_is_added_without_a_deprecation(app: FastAPI) -> None:
    assert versioning.DeprecationHeaders not in [m.cls for m in app.user_middleware]
