"""Cache policies: what each response may be stored as, and by whom."""

from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, Response
from fastapi.security import APIKeyCookie, HTTPBearer

from app.platform.base import context
from app.platform.base.errors import NotFound
from app.platform.http import cache_policy
from app.platform.http.cache_policy import (
    CachePolicyError,
    check_policies,
    immutable,
    no_store,
    private,
    public,
)
from app.platform.http.conditional import ConditionalRequestDep
from app.platform.http.routing import install_index

PUBLIC = "public, max-age=0, s-maxage=60, stale-while-revalidate=30"
CDN = public(s_maxage=60, stale_while_revalidate=30)


async def text() -> str:
    return "text"


async def fail() -> None:
    raise NotFound("There is no such thing.")


async def fail_by_status(response: Response) -> None:
    response.status_code = 404


async def respond_with_an_error() -> Response:
    return Response("{}", 500, {"Cache-Control": "public, max-age=9"}, "application/json")


async def crash() -> None:
    raise LookupError


async def set_cookie(response: Response) -> None:
    response.set_cookie("name", "value")


async def say_private(response: Response) -> None:
    response.headers["Cache-Control"] = "private, max-age=5"


async def respond() -> Response:
    return Response("text")


async def identify() -> None:
    context.current().user_id = "alice"


async def revalidate(condition: ConditionalRequestDep) -> str:
    condition.check_not_modified(etag="1")
    return "text"


@pytest.fixture
def get(app: FastAPI, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The response to a GET of a route with these dependencies, of the whole app."""
    monkeypatch.setattr(app.router, "routes", list(app.router.routes))

    async def send(route: Any, *dependencies: Any, **headers: str) -> httpx2.Response:
        app.add_api_route("/test/cached", route, dependencies=dependencies)
        install_index(app)
        response = await client.get("/test/cached", headers=headers)
        app.router.routes.pop()
        return response

    return send


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (CDN, PUBLIC),
        (public(max_age=5, stale_if_error=9), "public, max-age=5, stale-if-error=9"),
        (private(), "private, no-cache"),
        (private(max_age=5), "private, max-age=5"),
        (immutable(), "public, max-age=31536000, immutable"),
        (no_store(), "no-store"),
    ],
)
async def test_a_response_has_the_policy_of_its_route(get: Any, policy: Any, expected: str) -> None:
    for route in (text, respond):
        assert (await get(route, policy)).headers.get_list("Cache-Control") == [expected]


async def test_a_route_without_a_policy_is_not_stored(get: Any) -> None:
    assert (await get(text)).headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("route", [fail, fail_by_status, respond_with_an_error, crash])
async def test_an_error_is_never_stored(get: Any, route: Any) -> None:
    for policies in ((CDN,), (private(max_age=5),), ()):
        response = await get(route, *policies)
        assert response.status_code >= 400
        assert response.headers.get_list("Cache-Control") == ["no-store"]


async def test_the_innermost_policy_counts(get: Any) -> None:
    assert (await get(text, CDN, private())).headers["Cache-Control"] == "private, no-cache"


async def test_a_header_of_the_route_stands(get: Any) -> None:
    assert (await get(say_private, CDN)).headers.get_list("Cache-Control") == ["private, max-age=5"]


async def test_what_is_personal_is_not_public(get: Any) -> None:
    assert (await get(set_cookie, CDN)).headers["Cache-Control"] == "private, no-cache"
    identified = Depends(identify)
    assert (await get(text, CDN, identified)).headers["Cache-Control"] == "private, no-cache"
    shared = public(max_age=5, authenticated=True)
    assert (await get(text, shared, identified)).headers["Cache-Control"] == "public, max-age=5"


async def test_a_304_carries_the_policy_and_what_the_response_varies_by(get: Any) -> None:
    policy = public(s_maxage=60, vary=["Accept-Language"])
    for headers, status in (({}, 200), ({"If-None-Match": '"1"'}, 304)):
        response = await get(revalidate, policy, **headers)
        assert response.status_code == status
        assert response.headers["Cache-Control"] == "public, max-age=0, s-maxage=60"
        assert "Accept-Language" in response.headers["Vary"]
        assert response.headers["ETag"] == '"1"'
    assert (await get(revalidate)).headers["Cache-Control"] == "private, no-cache"


def app_with(method: str, *dependencies: Any) -> FastAPI:
    app, router = FastAPI(), APIRouter(dependencies=dependencies)
    router.add_api_route("/prices", text, methods=[method])
    app.include_router(router, prefix="/v1")
    return app


@pytest.mark.parametrize("scheme", [HTTPBearer(), APIKeyCookie(name="session")])
def test_a_public_policy_on_an_authenticated_route_is_refused(scheme: Any) -> None:
    def caller(_: Annotated[Any, Depends(scheme)]) -> None: ...

    with pytest.raises(CachePolicyError, match=r"GET /v1/prices authenticates"):
        check_policies(app_with("GET", CDN, Depends(caller)))
    for policy in (private(), no_store(), public(max_age=5, authenticated=True)):
        check_policies(app_with("GET", policy, Depends(caller)))


def test_a_policy_for_anything_but_get_is_refused() -> None:
    with pytest.raises(CachePolicyError, match=r"POST /v1/prices: only"):
        check_policies(app_with("POST", CDN))
    check_policies(app_with("GET", CDN))


async def test_the_service_does_not_start_with_a_policy_that_a_route_cannot_have(
    app: FastAPI,
) -> None:
    broken = app_with("POST", CDN)
    lifespan = cache_policy.setup(broken, app.state.settings)
    with pytest.raises(CachePolicyError):
        async with lifespan():
            pass


def test_negative_seconds_are_refused() -> None:
    for policy in (public, private):
        with pytest.raises(ValueError, match="negative"):
            policy(max_age=-1)
