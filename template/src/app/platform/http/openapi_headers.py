"""The headers of requests and responses in the OpenAPI document, which the framework leaves out."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from app.platform.http.conditional import conditional_request
from app.platform.http.problems import PROBLEM

Operation = dict[str, Any]

TEXT = {"type": "string"}
REQUEST_HEADERS = {
    "If-Match": "ETag of the version to change; 412 if it is no longer the current one",
    "If-None-Match": "ETags of cached responses; 304 if one of them is still valid",
    "If-Modified-Since": "Last-Modified of a cached response; 304 if it is still valid",
}
RESPONSE_HEADERS = {
    "Cache-Control": "Who may store the response, and for how long",
    "ETag": "Identifies the version; send it as If-Match or If-None-Match",
    "Last-Modified": "Date of the last change, once it identifies the version",
    "Location": "URL of the created resource",
    "RateLimit": "What is left of each limit, and seconds until it is restored",
    "RateLimit-Policy": "The limits that the request counts against",
    "Retry-After": "Seconds to wait before another attempt",
    "X-Request-ID": "Id of the request in logs; the caller's, if it sent one",
}
READ = ("If-None-Match", "If-Modified-Since")
VALIDATORS = ("ETag", "Last-Modified")


def describe_headers(app: FastAPI, document: dict[str, Any]) -> None:
    """Add the headers to every operation of ``document``."""
    components = document.setdefault("components", {})
    components["parameters"] = {
        name: {"name": name, "in": "header", "description": description, "schema": TEXT}
        for name, description in REQUEST_HEADERS.items()
    }
    components["headers"] = {
        name: {"description": description, "schema": TEXT}
        for name, description in RESPONSE_HEADERS.items()
    }
    conditional = set(_conditional_operations(app))
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if (path, method) in conditional:
                _describe_conditions(method, operation)
            for status, response in operation["responses"].items():
                _add_headers(response, _headers_of(path, status))


def _describe_conditions(method: str, operation: Operation) -> None:
    responses = operation["responses"]
    if method == "get":
        parameters: tuple[str, ...] = READ
        responses["304"] = {"description": "Not Modified"}
    else:
        parameters = ("If-Match",)
        responses.setdefault("412", {**PROBLEM, "description": "Precondition Failed"})
    references = [{"$ref": f"#/components/parameters/{name}"} for name in parameters]
    operation["parameters"] = [*operation.get("parameters", ()), *references]
    for status, response in responses.items():
        if status.startswith(("2", "304")) and (method == "get" or status != "204"):
            _add_headers(response, VALIDATORS if method == "get" else ("ETag",))


def _headers_of(path: str, status: str) -> Iterator[str]:
    yield "Cache-Control"
    yield "X-Request-ID"
    if path.startswith("/api/"):
        yield from ("RateLimit", "RateLimit-Policy")
    if status in ("201", "202"):
        yield "Location"
    if status in ("429", "503", "default"):
        yield "Retry-After"


def _add_headers(response: dict[str, Any], names: Any) -> None:
    references = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    response["headers"] = {**response.get("headers", {}), **references}


def _conditional_operations(app: FastAPI) -> Iterator[tuple[str, str]]:
    """The paths and methods of the routes that use ``ConditionalRequestDep``."""
    for context in iter_route_contexts(app.router.routes):
        dependant = getattr(context.original_route, "dependant", None)
        if dependant and _depends_on_conditions(dependant):
            for method in context.methods or ():
                yield context.path_format or "", method.lower()


def _depends_on_conditions(dependant: Dependant) -> bool:
    return any(
        each.call is conditional_request or _depends_on_conditions(each)
        for each in dependant.dependencies
    )
