"""Responses that a CDN may store have keys; no other response has them."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request, Response
from pydantic import SecretStr

from app.platform.base.errors import NotFound
from app.platform.data.cdn import PROVIDERS
from app.platform.http.cache_policy import PRIVATE, private, public
from app.platform.http.conditional import ConditionalRequestDep
from app.platform.http.routing import install_index
from app.platform.http.surrogate_keys import add_keys, tagged
from app.settings import Settings
from tests.conftest import client_for, running_platform

PUBLIC = "public, max-age=0, s-maxage=60"
CDN = public(s_maxage=60)


async def product(product: str) -> str:
    return product


async def products(request: Request, count: int) -> int:
    add_keys(request, *(f"product-{number}" for number in range(count)))
    return count


async def conditional(conditional: ConditionalRequestDep) -> str:
    conditional.check_not_modified(etag="1")
    return "text"


async def respond() -> Response:
    return Response("text")


async def fail() -> None:
    raise NotFound("There is no such thing.")


async def set_cookie(response: Response) -> None:
    response.set_cookie("name", "value")


async def say_private(response: Response) -> None:
    response.headers["Cache-Control"] = "private, max-age=5"


async def untagged(request: Request) -> None:
    add_keys(request, "a")


@pytest.fixture(scope="module")
async def shared(module_settings: Settings) -> AsyncIterator[FastAPI]:
    changes = {"cdn_purge_url": "https://cdn.test/purge", "cdn_purge_token": SecretStr("token")}
    async with running_platform(module_settings.model_copy(update=changes)) as app:
        named = [tagged(CDN, "products", "product-{product}")]
        app.add_api_route("/products/{product}", product, dependencies=named)
        for route in (products, conditional, respond, fail, set_cookie, say_private):
            app.add_api_route(f"/{route.__name__}", route, dependencies=[tagged(CDN, "all")])
        app.add_api_route("/untagged", untagged, dependencies=[CDN])
        install_index(app)
        yield app


@pytest.fixture
async def client(shared: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(shared) as client:
        yield client


async def test_keys_are_those_of_the_route_its_path_and_its_content(
    client: httpx2.AsyncClient,
) -> None:
    one = await client.get("/products/Blue%20Shoe")
    assert one.headers["Surrogate-Key"] == "products product-blue%20shoe"
    assert one.headers["Cache-Control"] == PUBLIC
    many = await client.get("/products?count=3")
    assert many.headers["Surrogate-Key"] == "all product-0 product-1 product-2"


async def test_a_cdn_with_tags_gets_tags(
    shared: FastAPI, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.state.cdn, "provider", PROVIDERS["cloudflare"])
    response = await client.get("/products?count=2")
    assert response.headers["Cache-Tag"] == "all,product-0,product-1"
    assert "Surrogate-Key" not in response.headers


@pytest.mark.parametrize("path", ["/respond", "/conditional"])
async def test_complete_and_unchanged_responses_have_keys(
    client: httpx2.AsyncClient, path: str
) -> None:
    response = await client.get(path, headers={"If-None-Match": '"1"'})
    assert response.status_code == (304 if path == "/conditional" else 200)
    assert response.headers["Surrogate-Key"] == "all"


@pytest.mark.parametrize("path", ["/fail", "/set_cookie", "/say_private", "/nowhere"])
async def test_a_response_that_no_cdn_may_store_has_no_keys(
    client: httpx2.AsyncClient, path: str
) -> None:
    response = await client.get(path)
    assert "public" not in response.headers["Cache-Control"]
    assert "Surrogate-Key" not in response.headers


async def test_a_response_with_too_many_keys_is_not_stored(client: httpx2.AsyncClient) -> None:
    response = await client.get("/products?count=1000")
    assert (response.status_code, response.headers["Cache-Control"]) == (200, PRIVATE)
    assert "Surrogate-Key" not in response.headers


async def test_without_a_cdn_the_policy_is_the_same_and_there_are_no_keys(
    shared: FastAPI, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.state.cdn, "provider", None)
    response = await client.get("/products?count=1000")
    assert response.headers["Cache-Control"] == PUBLIC
    assert not {"surrogate-key", "cache-tag"} & set(response.headers)


async def test_keys_without_a_policy_that_has_them_are_a_mistake(
    client: httpx2.AsyncClient,
) -> None:
    assert (await client.get("/untagged")).status_code == 500


@pytest.mark.parametrize(
    ("policy", "keys", "message"),
    [(private(), ["a"], "public"), ("a", ["a"], "public"), (CDN, [], "at least one")],
)
def test_only_a_public_policy_has_keys(policy: Any, keys: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tagged(policy, *keys)
