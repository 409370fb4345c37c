"""Problem details (RFC 9457): the format of every error response, and the exception handlers."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException  # noqa: TID251 (the framework raises it)
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from app.platform.base import context
from app.platform.base.errors import AppError, UnsupportedMediaType
from app.platform.settings import PlatformSettings

# RFC 9110's phrases for those that Python has had since 3.13 only: codes are derived from them.
RENAMED_PHRASES = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")


class FieldError(BaseModel):
    """One invalid value of the request."""

    location: list[str | int] = Field(examples=[["body", "name"]])
    message: str = Field(examples=["Field required"])
    type: str = Field(examples=["missing"])


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    model_config = ConfigDict(extra="allow")  # extension members (section 3.2)

    type: str = Field(examples=["urn:problem:not_found"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no such order."])
    code: str = Field(examples=["not_found"])
    request_id: str = Field(examples=["0198c3a1c2d47b0e9c7f1a2b3c4d5e6f"])
    trace_id: str | None = None
    errors: list[FieldError] | None = None


class ProblemResponse(JSONResponse):
    media_type = "application/problem+json"


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    errors: list[FieldError] | None = None,
    extensions: Mapping[str, Any] | None = None,
) -> ProblemResponse:
    """A problem response with the ids of the request and its trace.

    ``extensions``: further members of the document; they never replace its own.
    """
    body = document(status, code, detail, errors=errors, extensions=extensions)
    content = body.model_dump(mode="json", exclude_none=True, fallback=str)
    return ProblemResponse(content, status, headers)


def document(
    status: int,
    code: str,
    detail: str,
    *,
    errors: list[FieldError] | None = None,
    extensions: Mapping[str, Any] | None = None,
) -> Problem:
    """The document of a problem response, for a response that contains several."""
    current = context.current()
    own = Problem.model_fields
    return Problem(
        **{name: value for name, value in (extensions or {}).items() if name not in own},
        type=f"urn:problem:{code}",
        title=_phrase(status),
        status=status,
        detail=detail,
        code=code,
        request_id=current.request_id,
        trace_id=current.trace_id or None,
        errors=errors,
    )


def from_plain_text(status: int, text: str) -> ProblemResponse:
    """The problem in place of an error that the framework would answer as plain text."""
    detail = f"{_description(status)}." if text in ("", _phrase(status)) else text
    return problem(status, _code(status), detail)


def _code(status: int) -> str:
    return _phrase(status).lower().replace(" ", "_").replace("-", "_")


def _phrase(status: int) -> str:
    """The phrase of a status code; for a code that HTTP does not know, that of its class."""
    if status in RENAMED_PHRASES:
        return RENAMED_PHRASES[status]
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Server Error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "Client Error"


def _description(status: int) -> str:
    try:
        return HTTPStatus(status).description or HTTPStatus(status).phrase
    except ValueError:
        return _phrase(status)


async def _app_error(_: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, AppError)
    return problem(error.status, error.code, error.detail, headers=error.headers)


async def _http_error(_: Request, error: Exception) -> Response:
    """Map an ``HTTPException``, of the framework (404, 413) or of a library.

    A ``detail`` that is a mapping becomes extension members. A 500 is a fault like any other.
    """
    assert isinstance(error, HTTPException)
    status, detail, headers = error.status_code, error.detail, error.headers
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        raise error
    if status < HTTPStatus.BAD_REQUEST:
        return Response(status_code=status, headers=headers)
    phrase = _phrase(status)
    extensions: Any = detail if isinstance(detail, Mapping) else {}
    if not isinstance(detail, str):
        detail = str(extensions.get("detail", phrase)) if extensions else str(detail)
    if detail in ("", phrase):
        detail = f"{_description(status)}."
    return problem(status, _code(status), detail, headers=headers, extensions=extensions)


async def _validation_error(request: Request, error: Exception) -> ProblemResponse:
    """List the invalid fields without their values, which may be passwords.

    422; 400 for a body that is not JSON, and 415 for one of another content type.
    """
    assert isinstance(error, RequestValidationError | WebSocketRequestValidationError)
    errors = [
        FieldError(location=list(e["loc"]), message=e["msg"], type=e["type"])
        for e in error.errors()
    ]
    if any(each.type == "json_invalid" for each in errors):
        return problem(400, "bad_request", "The body is not valid JSON.", errors=errors)
    if any(each.location[:1] == ["body"] for each in errors) and _is_unparsed(request, error):
        raise UnsupportedMediaType("This route takes a body of another content type.")
    return problem(422, "invalid", "The request is invalid; see `errors`.", errors=errors)


def _is_unparsed(request: Request, error: Any) -> bool:
    """Whether the framework did not parse the body, because of its content type.

    Then it is bytes where the route takes JSON, and an empty form where it takes a form.
    """
    body, content_type = error.body, request.headers.get("content-type", "").lower()
    if isinstance(body, FormData):
        return not body and not content_type.startswith(FORM_TYPES) and _has_body(request)
    return isinstance(body, bytes)


def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in (
        request.headers
    )


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse an unknown path, of a WebSocket, too: the framework would close that with 403."""
    raise HTTPException(404)


PROBLEM: dict[str, Any] = {
    "description": "A problem document (RFC 9457)",
    "content": {
        ProblemResponse.media_type: {"schema": {"$ref": "#/components/schemas/Problem"}},
    },
}
# For OpenAPI: any route may answer with a problem document, and with 422 to an invalid request.
DEFAULT_RESPONSES: dict[int | str, dict[str, Any]] = {"default": PROBLEM, 422: PROBLEM}


def responses(*errors: type[AppError]) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that raises these errors, for OpenAPI."""
    return {
        error.status.value: {**PROBLEM, "description": _phrase(error.status)} for error in errors
    }


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(WebSocketRequestValidationError, _validation_error)
    app.router.default = _not_found
