"""Errors of dependencies as responses: only what the driver of a dependency raised is its outage.

Postgres, Redis and the peers that the HTTP client calls. Everything else is a fault of this
service, and so a 500 with a traceback, whatever its class.
"""

import logging
from http import HTTPStatus

import httpx2
from fastapi import FastAPI, Request
from redis import exceptions as redis
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.platform.base.errors import AppError, Conflict, DatabaseUnavailable
from app.platform.data.driver_errors import sqlstate
from app.platform.http.problems import ProblemResponse, problem
from app.platform.settings import PlatformSettings

logger = logging.getLogger(__name__)

# SQLSTATEs, https://www.postgresql.org/docs/current/errcodes-appendix.html
# The request conflicts with stored rows. Other violations (NOT NULL, CHECK) are faults of this
# service, which should have refused the request.
CONFLICTS = {
    "23503": "foreign key violation",
    "23505": "unique violation",
    "23P01": "exclusion violation",
}
# Text that Postgres can't store, such as NUL: it can only be the request's.
DATA_EXCEPTIONS = ("22021", "22P05")
# Transient failures: connection exceptions, insufficient resources, operator intervention, system
# errors, rollbacks (deadlocks, serialization failures), locks, read-only transactions (a standby).
# Only the caller knows whether the request can be repeated; reads have been (`ReadSession`).
RETRYABLE = ("08", "53", "57", "58", "40", "55P03", "25006")
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
# What the HTTP client raises for mistakes of this service.
CLIENT_FAULTS = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)
# A peer's responses that say "not now": the caller may retry.
PEER_BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
PEER_FAILURES = {
    HTTPStatus.BAD_GATEWAY: ("bad_gateway", "A service that this one calls failed."),
    HTTPStatus.SERVICE_UNAVAILABLE: ("unavailable", "A service that this one calls is busy."),
    HTTPStatus.GATEWAY_TIMEOUT: (
        "gateway_timeout",
        "A service that this one calls did not respond in time.",
    ),
}


class Unstorable(AppError):
    """A value of the request can't be stored."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "invalid"


async def _database_error(_: Request, error: Exception) -> ProblemResponse:
    """A conflict or an outage, by SQLSTATE; otherwise a fault of this service."""
    assert isinstance(error, DBAPIError)
    if refused := refusal(error):
        return problem(refused.status, refused.code, refused.detail)
    state = sqlstate(error) or ""
    if error.connection_invalidated or state.startswith(RETRYABLE):
        return _unavailable("The database", f"{type(error.driver_exception).__name__} {state}")
    raise error


def refusal(error: DBAPIError) -> AppError | None:
    """The caller's error, if Postgres refused values of the request; the constraint is logged."""
    state = sqlstate(error)
    refused: AppError
    if state in CONFLICTS:
        refused = Conflict("The request conflicts with the stored state.")
    elif state in DATA_EXCEPTIONS:
        refused = Unstorable("A value of the request can't be stored.")
    else:
        return None
    constraint = getattr(error.driver_exception, "constraint_name", None)
    logger.warning(
        "refused by the database: SQLSTATE %s, constraint %s", state, constraint or "none"
    )
    return refused


async def _database_unavailable(_: Request, error: Exception) -> ProblemResponse:
    return _unavailable("The database", type(error.__cause__ or error).__name__)


async def _redis_error(_: Request, error: Exception) -> ProblemResponse:
    return _unavailable("Redis", type(error).__name__)


async def _redis_response_error(_: Request, error: Exception) -> ProblemResponse:
    if str(error).split(" ", 1)[0] in REDIS_BUSY:
        return _unavailable("Redis", str(error).split(" ", 1)[0])
    raise error


def _unavailable(dependency: str, reason: str) -> ProblemResponse:
    logger.warning("%s unavailable: %s", dependency.lower(), reason)
    headers = {"Retry-After": "1"}
    return problem(503, "unavailable", f"{dependency} is not available.", headers=headers)


async def _peer_error(_: Request, error: Exception) -> ProblemResponse:
    """A peer that did not respond in time (504) or not in HTTP (502), or a busy client (503)."""
    assert isinstance(error, httpx2.RequestError)
    if isinstance(error, CLIENT_FAULTS):
        raise error
    if isinstance(error, httpx2.PoolTimeout):  # all connections of this process are in use
        return _peer_failure(error, HTTPStatus.SERVICE_UNAVAILABLE)
    timed_out = isinstance(error, httpx2.TimeoutException)
    return _peer_failure(error, HTTPStatus.GATEWAY_TIMEOUT if timed_out else HTTPStatus.BAD_GATEWAY)


async def _peer_status(_: Request, error: Exception) -> ProblemResponse:
    """A peer's 5xx, from ``raise_for_status()``; by a 4xx it says that this service is wrong."""
    assert isinstance(error, httpx2.HTTPStatusError)
    status = error.response.status_code
    if status in PEER_BUSY:
        return _peer_failure(error, HTTPStatus.SERVICE_UNAVAILABLE)
    if status == HTTPStatus.GATEWAY_TIMEOUT:
        return _peer_failure(error, HTTPStatus.GATEWAY_TIMEOUT)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _peer_failure(error, HTTPStatus.BAD_GATEWAY)
    raise error


def _peer_failure(
    error: httpx2.RequestError | httpx2.HTTPStatusError, status: HTTPStatus
) -> ProblemResponse:
    logger.warning("%s failed: %s", error.request.url.host, type(error).__name__)
    code, detail = PEER_FAILURES[status]
    headers = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return problem(status, code, detail, headers=headers)


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    app.add_exception_handler(DBAPIError, _database_error)
    app.add_exception_handler(DatabaseUnavailable, _database_unavailable)
    app.add_exception_handler(PoolTimeoutError, _database_unavailable)
    for kind in REDIS_UNAVAILABLE:
        app.add_exception_handler(kind, _redis_error)
    app.add_exception_handler(redis.ResponseError, _redis_response_error)
    app.add_exception_handler(httpx2.RequestError, _peer_error)
    app.add_exception_handler(httpx2.HTTPStatusError, _peer_status)
