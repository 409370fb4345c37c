"""The route index finds the same routes as the framework's linear search."""

from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, Form
from starlette.responses import PlainTextResponse
from starlette.routing import Mount

from app.platform.http import problems, routing
from app.platform.settings import offline_settings
from app.settings import Settings
from tests.conftest import client_for


def _endpoint(name: str) -> Any:
    async def endpoint() -> str:
        return name

    endpoint.__name__ = name.replace(" ", "_")
    return endpoint


def build_app() -> FastAPI:
    """An app with overlapping routes, so that their order matters."""
    app = FastAPI(openapi_url=None)
    problems.setup(app, offline_settings(Settings))
    things, parts = APIRouter(prefix="/things"), APIRouter(prefix="/{thing}/parts")
    things.add_api_route("/new", _endpoint("new"))
    things.add_api_route("/{thing:int}", _endpoint("by number"))
    things.add_api_route("/{thing}", _endpoint("by name"))
    things.add_api_route("/{thing}", _endpoint("deleted"), methods=["DELETE"])
    things.add_api_route("/latest", _endpoint("never reached"))
    things.add_api_route("", _endpoint("list"))
    things.add_api_route("", _endpoint("created"), methods=["POST"])
    parts.add_api_route("/{part}", _endpoint("part"))
    things.include_router(parts)

    async def form(name: str = Form()) -> str:
        return name

    things.add_api_route("/form/{thing}", form, methods=["POST"])
    app.include_router(things, prefix="/api/v1")
    app.add_api_route("/api/{version}/things/{thing}/notes", _endpoint("notes"))
    app.router.routes.append(Mount("/api/v1/mounted", app=PlainTextResponse("mounted")))
    app.add_api_route("/api/v1/mounted/{thing}", _endpoint("hidden by the mount"))
    app.add_api_route("/", _endpoint("root"))
    app.add_api_route("/{anything:path}", _endpoint("anything"), methods=["PUT"])
    return app


REQUESTS = [
    *(
        ("GET", path)
        for path in (
            "/", "/api/v1/things", "/api/v1/things/", "/api/v1/things/new", "/api/v1/things/7",
            "/api/v1/things/x", "/api/v1/things/latest", "/api/v1/things/x/parts/y",
            "/api/v1/things/x/parts", "/api/v1/things/x/notes", "/api/v2/things/x/notes",
            "/api/v1/mounted/x", "/api/v1/mounted", "/api/v1/nothing", "/api/v1", "/a/b/c/d/e",
            "//", "/api//v1/things", "/api/v1/things/%2F", "/api/v1/things/x%20y",
        )
    ),
    ("POST", "/api/v1/things"), ("DELETE", "/api/v1/things/x"), ("PATCH", "/api/v1/things/x"),
    ("OPTIONS", "/api/v1/things/x"), ("DELETE", "/"),
    ("PUT", "/a/b"), ("PUT", "/api/v1/things/x"), ("POST", "/api/v1/things/form/x"),
    ("POST", "/nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), REQUESTS)
async def test_the_index_matches_as_the_linear_search_does(method: str, path: str) -> None:
    plain, indexed = build_app(), build_app()
    routing.install_index(indexed)
    expected, response = [await _request(app, method, path) for app in (plain, indexed)]
    assert (response.status_code, response.text) == (expected.status_code, expected.text)
    assert response.headers.get("location") == expected.headers.get("location")


async def _request(app: FastAPI, method: str, path: str) -> httpx2.Response:
    async with client_for(app) as client:
        return await client.request(method, path)


async def test_a_405_lists_every_allowed_method() -> None:
    app = build_app()
    routing.install_index(app)
    response = await _request(app, "PATCH", "/api/v1/things")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD, POST, PUT"


async def test_a_get_route_answers_head_but_one_for_head_comes_first() -> None:
    app = build_app()
    app.add_api_route("/api/v1/things/x", _endpoint("head"), methods=["HEAD"])
    routing.install_index(app)
    by_number = await _request(app, "HEAD", "/api/v1/things/7")
    own = await _request(app, "HEAD", "/api/v1/things/x")
    assert by_number.headers["content-length"] == str(len('"by number"'))
    assert own.headers["content-length"] == str(len('"head"'))
    assert (await _request(app, "HEAD", "/a/b")).status_code == 405


async def test_a_route_added_later_is_found_before_and_after_reindexing() -> None:
    app = build_app()
    routing.install_index(app)
    app.add_api_route("/api/v1/later", _endpoint("later"))
    assert (await _request(app, "GET", "/api/v1/later")).json() == "later"
    routing.install_index(app)
    assert (await _request(app, "GET", "/api/v1/later")).json() == "later"
    assert sum(isinstance(route, routing.RouteIndex) for route in app.router.routes) == 1


async def test_dependency_overrides_apply_to_indexed_routes() -> None:
    def real() -> str:
        return "real"

    router = APIRouter()

    async def show(value: Annotated[str, Depends(real)]) -> str:
        return value

    router.add_api_route("/show", show)
    app = FastAPI(openapi_url=None)
    app.include_router(router, prefix="/api/v1")
    routing.install_index(app)
    assert (await _request(app, "GET", "/api/v1/show")).json() == "real"
    app.dependency_overrides[real] = lambda: "override"
    assert (await _request(app, "GET", "/api/v1/show")).json() == "override"


def test_the_index_does_not_change_the_openapi_document() -> None:
    plain, indexed = build_app(), build_app()
    routing.install_index(indexed)
    assert plain.openapi() == indexed.openapi()


async def test_the_index_finds_routes_without_the_linear_search() -> None:
    app = build_app()
    routing.install_index(app)
    del app.router.routes[1:]
    assert (await _request(app, "GET", "/api/v1/things/x/parts/y")).json() == "part"
    assert (await _request(app, "GET", "/")).json() == "root"
    assert (await _request(app, "GET", "/api/v2/things/x/notes")).json() == "notes"
