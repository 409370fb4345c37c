"""A path prefix: nothing depends on how it arrives, and every URL that is sent has it."""

import re
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import httpx2
import pytest
from fastapi import FastAPI, Request
from starlette.routing import Mount, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from app.platform.http import routing, versioning
from app.platform.settings import SettingsError
from app.platform.settings.rates import Rate
from app.settings import Settings, get_settings
from tests.conftest import running_app
from tests.required import REQUIRED

PREFIX = "/shop"
HOST = "shop.example.com"
METRICS_PORT = 9000


def _removed(app: ASGIApp) -> ASGIApp:
    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(PREFIX)
        await app({**scope, "path": path, "raw_path": path.encode()}, receive, send)

    return proxy


def _set_by_server(app: ASGIApp) -> ASGIApp:
    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "root_path": PREFIX}, receive, send)

    return server


# The ways in which a prefix arrives: what is in front of the app, and the setting.
ARRIVALS: dict[str, tuple[Callable[[ASGIApp], ASGIApp], str]] = {
    "removed by the proxy": (_removed, PREFIX),
    "kept by the proxy": (lambda app: app, PREFIX),
    "set by the server": (_set_by_server, ""),
    "mounted": (lambda app: Router([Mount(PREFIX, app)]), ""),
}


class Service(NamedTuple):
    """The app, and a client that reaches it below the prefix."""

    app: FastAPI
    client: httpx2.AsyncClient


@pytest.fixture(scope="module", params=ARRIVALS)
async def service(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Service]:
    front, root_path = ARRIVALS[request.param]
    changes = {
        "root_path": root_path,
        "rate_limit": Rate(1000, 3600),
        "allowed_hosts": [HOST],
        "metrics_port": METRICS_PORT,
    }

    async def show_in_a_test(request: Request) -> list[str]:
        return [
            request.url.path,
            request.url_for("show_in_a_test").path,
            versioning.location(request, "/things"),
        ]

    async with running_app(settings.model_copy(update=changes)) as app:
        app.add_api_route("/api/v1/things", show_in_a_test, methods=["POST"])
        deprecated = {"Sunset": "Fri, 31 Dec 2100 23:59:59 GMT"}
        app.add_middleware(versioning.DeprecationHeaders, prefix="/api/v1/", headers=deprecated)
        routing.install_index(app)
        transport = httpx2.ASGITransport(front(app), raise_app_exceptions=False)
        url = f"http://{HOST}{PREFIX}"
        async with httpx2.AsyncClient(transport=transport, base_url=url) as client:
            yield Service(app, client)


async def test_routes_are_found_and_their_urls_have_the_prefix(service: Service) -> None:
    response = await service.client.post("/api/v1/things")
    assert response.json() == ["/shop/api/v1/things"] * 3
    assert (await service.client.get("/api/v1/unknown")).status_code == 404


async def test_limits_and_the_headers_of_a_version_apply(service: Service) -> None:
    response = await service.client.post("/api/v1/things")
    assert "RateLimit" in response.headers
    assert "Sunset" in response.headers
    assert "RateLimit" not in (await service.client.get("/health/live")).headers


async def test_metrics_are_on_their_own_port_and_name_routes(service: Service) -> None:
    await service.client.post("/api/v1/things")
    service.app.state.access_log.flush()
    own_port = f"http://{HOST}:{METRICS_PORT}{PREFIX}"
    metrics = await service.client.get(f"{own_port}/metrics")
    assert (await service.client.get("/metrics")).status_code == 404
    assert (await service.client.get(f"{own_port}/health/live")).status_code == 404
    assert 'route="/api/v1/things"' in metrics.text
    assert PREFIX not in metrics.text


async def test_probes_are_exempt_from_the_host_list(service: Service) -> None:
    other = {"Host": "10.0.0.1"}
    assert (await service.client.get("/health/live", headers=other)).status_code == 200
    assert (await service.client.post("/api/v1/things", headers=other)).status_code == 400


async def test_the_docs_and_the_openapi_document_have_the_prefix(service: Service) -> None:
    page = (await service.client.get("/docs")).text
    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(assets) >= 3
    for asset in assets:
        response = await service.client.get(f"http://{HOST}{asset}")
        assert (asset.startswith("/shop/docs/"), response.status_code) == (True, 200), asset
    assert "'/shop/openapi.json'" in page

    document = (await service.client.get("/openapi.json")).json()
    assert document["servers"] == [{"url": PREFIX}]
    assert scheme_paths(document) == [PREFIX + path for path in scheme_paths(service.app.openapi())]


def scheme_paths(document: dict[str, object]) -> list[str]:
    """The URLs of the security schemes that are paths, such as that of a login."""
    return re.findall(r"Url': '(/[^']+)'", str(document["components"]))


async def test_probes_do_not_need_the_prefix(settings: Settings) -> None:
    """Kubelets and Prometheus do not come through the proxy."""
    changed = settings.model_copy(update={"root_path": PREFIX})
    async with running_app(changed) as app:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://10.0.0.1") as client:
            for path in ("/health/live", "/health/ready", "/metrics"):
                assert (await client.get(path)).status_code == 200
            assert (await client.get("/shopping/health/live")).status_code == 404


@pytest.mark.parametrize("prefix", ["shop", "/shop/", "/", "//shop", "/a b", "/api", "/docs/x"])
def test_an_invalid_prefix_is_refused(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    for name, value in (REQUIRED | {"ROOT_PATH": prefix}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="ROOT_PATH"):
        get_settings()
