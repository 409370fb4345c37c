"""Problem details (RFC 9457): the format of every error response, and the exception handlers."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from redis import exceptions as redis
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException  # noqa: TID251 (the framework raises it)
from starlette.responses import JSONResponse

from app.platform.base import context
from app.platform.base.errors import AppError
from app.platform.settings import PlatformSettings

logger = logging.getLogger(__name__)

# SQLSTATE classes of transient failures: connection exceptions, insufficient resources, operator
# intervention, transaction rollback, lock not available, read-only transaction (a standby).
# https://www.postgresql.org/docs/current/errcodes-appendix.html
RETRYABLE = ("08", "53", "57", "40", "55P03", "25006")
# Transient failures of Redis: unreachable, timed out, a replica, out of memory.
REDIS_UNAVAILABLE = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.ReadOnlyError,
    redis.ClusterDownError,
    redis.OutOfMemoryError,
)
# Error prefixes of transient failures: failed snapshots, too few replicas, a script over its time.
# https://redis.io/docs/latest/develop/reference/errors/all/redis/
REDIS_BUSY = ("MISCONF", "NOREPLICAS", "BUSY")
# SQLSTATE class 22, data exceptions: Postgres can't store a value.
DATA_EXCEPTIONS = ("22",)


class FieldError(BaseModel):
    """One invalid value of the request."""

    location: list[str | int] = Field(examples=[["body", "name"]])
    message: str = Field(examples=["Field required"])
    type: str = Field(examples=["missing"])


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = Field(examples=["urn:problem:not_found"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no such item."])
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
) -> ProblemResponse:
    """A problem response with the ids of the request and its trace."""
    current = context.current()
    body = Problem(
        type=f"urn:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        request_id=current.request_id,
        trace_id=current.trace_id or None,
        errors=errors,
    )
    return ProblemResponse(body.model_dump(exclude_none=True), status, headers)


async def _app_error(_: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, AppError)
    return problem(error.status, error.code, error.detail, headers=error.headers)


async def _http_error(_: Request, error: Exception) -> ProblemResponse:
    """Map the framework's own errors: 404 of the router, 413 of the body limit."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code = status.phrase.lower().replace(" ", "_").replace("-", "_")
    detail = error.detail if error.detail != status.phrase else f"{status.description}."
    return problem(status, code, detail, headers=error.headers)


async def _validation_error(_: Request, error: Exception) -> ProblemResponse:
    """List the invalid fields without their values, which may be passwords."""
    assert isinstance(error, RequestValidationError)
    errors = [
        FieldError(location=list(e["loc"]), message=e["msg"], type=e["type"])
        for e in error.errors()
    ]
    return problem(422, "invalid", "The request is invalid; see `errors`.", errors=errors)


async def _database_error(_: Request, error: Exception) -> ProblemResponse:
    """Map a database error: a conflict, an invalid value, an outage, or a bug of this service."""
    assert isinstance(error, DBAPIError)
    state = getattr(error.orig, "sqlstate", None) or ""
    if isinstance(error, IntegrityError):
        return problem(409, "conflict", "The request conflicts with the stored state.")
    if state.startswith(DATA_EXCEPTIONS):
        return problem(422, "invalid", "A value of the request can't be stored.")
    if error.connection_invalidated or state.startswith(RETRYABLE):
        return _unavailable(error.driver_exception)
    logger.error("database error", exc_info=error)
    return problem(500, "internal_error", "Something went wrong on our side.")


async def _connection_error(_: Request, error: Exception) -> ProblemResponse:
    return _unavailable(error)


async def _redis_error(_: Request, error: Exception) -> ProblemResponse:
    return _unavailable(error, "Redis")


async def _redis_response_error(_: Request, error: Exception) -> ProblemResponse:
    if str(error).split(" ", 1)[0] in REDIS_BUSY:
        return _unavailable(error, "Redis")
    raise error


def _unavailable(error: BaseException, what: str = "The database") -> ProblemResponse:
    logger.warning("%s unavailable: %s", what.lower(), type(error).__name__)
    headers = {"Retry-After": "1"}
    return problem(503, "unavailable", f"{what} is not available.", headers=headers)


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
    return {error.status.value: {**PROBLEM, "description": error.status.phrase} for error in errors}


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(DBAPIError, _database_error)
    app.add_exception_handler(PoolTimeoutError, _connection_error)
    app.add_exception_handler(OSError, _connection_error)
    for kind in REDIS_UNAVAILABLE:
        app.add_exception_handler(kind, _redis_error)
    app.add_exception_handler(redis.ResponseError, _redis_response_error)
