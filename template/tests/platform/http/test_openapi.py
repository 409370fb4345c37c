"""The OpenAPI document, and Swagger UI without internet access."""

import re

import httpx2
from fastapi import FastAPI

from app.settings import Settings
from tests.conftest import client_for, running_app


async def test_swagger_ui_works_offline(client: httpx2.AsyncClient) -> None:
    for _ in range(2):
        page = await client.get("/docs")
        assert page.status_code == 200
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(assets) >= 3
    for asset in assets:
        assert asset.startswith("/docs/"), asset
        assert (await client.get(asset)).status_code == 200
    policy = page.headers["content-security-policy"]
    assert "script-src 'self' 'unsafe-inline'" in policy  # otherwise browsers show an empty page
    assert "connect-src 'self'" in policy


async def test_swagger_ui_is_off_in_production(settings: Settings) -> None:
    production = settings.model_copy(update={"environment": "production"})
    async with running_app(production) as app, client_for(app) as client:
        assert (await client.get("/docs")).status_code == 404
        assert (await client.get("/openapi.json")).status_code == 200


async def test_errors_are_documented_as_problems(app: FastAPI) -> None:
    document = app.openapi()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    paths = [item for path, item in document["paths"].items() if path.startswith("/api/")]
    for operation in (operation for path in paths for operation in path.values()):
        assert set(operation["responses"]["default"]["content"]) == {"application/problem+json"}


async def test_every_schema_reference_resolves(app: FastAPI) -> None:
    document = app.openapi()
    for name in re.findall(r"#/components/schemas/(\w+)", str(document)):
        assert name in document["components"]["schemas"]
