"""The OpenAPI document, and Swagger UI without internet access."""

import re
from collections.abc import Iterator
from typing import Any

import httpx2
from fastapi import FastAPI

from app.platform.http import openapi
from app.platform.http.conditional import ConditionalRequestDep
from app.settings import Settings
from tests.conftest import client_for, running_platform

TEMPLATE_TAGS = {"auth", "items", "jobs"}


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


async def test_errors_are_documented_as_problems(app: FastAPI) -> None:
    document = app.openapi()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    paths = [item for path, item in document["paths"].items() if path.startswith("/api/")]
    for operation in (operation for path in paths for operation in path.values()):
        assert set(operation["responses"]["default"]["content"]) == {"application/problem+json"}


async def test_operation_ids_are_unique_names_of_functions(app: FastAPI) -> None:
    """Generated clients name their methods after them: rename one of two equal functions."""
    operations = [o for item in app.openapi()["paths"].values() for o in item.values()]
    ids = [operation["operationId"] for operation in operations]
    assert sorted(ids) == sorted(set(ids))
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", each) and "_api_" not in each for each in ids)


async def test_every_schema_reference_resolves(app: FastAPI) -> None:
    document = app.openapi()
    for name in re.findall(r"#/components/schemas/(\w+)", str(document)):
        assert name in document["components"]["schemas"]


async def test_conditional_requests_are_documented(app: FastAPI) -> None:
    """Of a route that uses the dependency: the headers to send, and the answers to them."""

    async def read(thing: int, conditional: ConditionalRequestDep) -> str:
        return ""

    documented = FastAPI()
    documented.add_api_route("/things/{thing}", read)
    documented.add_api_route("/things/{thing}", read, methods=["PUT"])
    document = openapi.openapi_schema(documented)
    get, put = (document["paths"]["/things/{thing}"][method] for method in ("get", "put"))

    assert header_parameters(document, get) == {"If-None-Match", "If-Modified-Since"}
    assert header_parameters(document, put) == {"If-Match"}
    assert "content" not in get["responses"]["304"]
    assert set(put["responses"]["412"]["content"]) == {"application/problem+json"}
    for response in (get["responses"]["200"], get["responses"]["304"], put["responses"]["200"]):
        assert response["headers"]["ETag"] == {"$ref": "#/components/headers/ETag"}


async def test_every_response_documents_its_headers(app: FastAPI) -> None:
    document = app.openapi()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                expected = {"Cache-Control", "X-Request-ID"}
                expected |= {"RateLimit", "RateLimit-Policy"} if path.startswith("/api/") else set()
                expected |= {"Retry-After"} if status in ("429", "503") else set()
                assert expected <= set(response["headers"]), f"{path} {status}"


async def test_other_sites_may_send_and_read_every_documented_header(settings: Settings) -> None:
    """What the document asks a client to send, a preflight request for it allows."""
    changes = {"cors_origins": ["https://app.example.com"]}
    async with (
        running_platform(settings.model_copy(update=changes)) as app,
        client_for(app) as client,
    ):
        document = app.openapi()
        schemes = document["components"].get("securitySchemes", {}).values()
        sent = {each["name"] for each in document["components"]["parameters"].values()}
        sent |= {each["name"] for each in schemes if each.get("in") == "header"}
        sent |= {"Authorization", "Content-Type", "X-Request-ID", "traceparent", "tracestate"}
        for name in sent:
            headers = {
                "Origin": "https://app.example.com",
                "Access-Control-Request-Method": "PATCH",
                "Access-Control-Request-Headers": name.lower(),
            }
            assert (await client.options("/api/v1/x", headers=headers)).status_code == 200, name
        response = await client.get("/api/v1/x", headers={"Origin": "https://app.example.com"})
    # https://fetch.spec.whatwg.org/#cors-safelisted-response-header-name
    readable = {"Cache-Control", "Content-Language", "Content-Type", "Expires", "Last-Modified"}
    readable |= set(response.headers["Access-Control-Expose-Headers"].split(", "))
    assert set(document["components"]["headers"]) <= readable


def header_parameters(document: dict[str, Any], operation: dict[str, Any]) -> set[str]:
    parameters = [
        document["components"]["parameters"][each["$ref"].rpartition("/")[2]]
        for each in operation["parameters"]
        if "$ref" in each
    ]
    return {each["name"] for each in parameters if each["in"] == "header"}


async def test_json_bodies_refuse_unknown_fields(app: FastAPI) -> None:
    """Those of the template's own routes inherit from ``RequestModel``; let yours do so, too."""
    document = app.openapi()
    for path, item in document["paths"].items():
        for operation in item.values():
            if not TEMPLATE_TAGS.intersection(operation.get("tags", ())):
                continue
            content = operation.get("requestBody", {}).get("content", {})
            for schema in referenced(document, content.get("application/json", {})):
                if "properties" in schema:
                    assert "additionalProperties" in schema, f"{path}: {schema['title']}"


def referenced(document: dict[str, Any], part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The named schemas that a part of the document refers to, also through others."""
    pending, seen = [part], set[str]()
    while pending:
        for name in re.findall(r"#/components/schemas/(\w+)", str(pending.pop())):
            if name not in seen:
                seen.add(name)
                schema = document["components"]["schemas"][name]
                pending.append(schema)
                yield schema
