"""Errors that features raise; each is answered as an RFC 9457 problem document."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import ClassVar


class AppError(Exception):
    """An error that a caller can do something about."""

    status: ClassVar[HTTPStatus] = HTTPStatus.BAD_REQUEST
    code: ClassVar[str] = "bad_request"

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})


class BadRequest(AppError):
    """The request can't be understood."""


class Unauthorized(AppError):
    """Who is calling is not known, or no longer believed."""

    status = HTTPStatus.UNAUTHORIZED
    code = "unauthorized"


class Forbidden(AppError):
    """The caller is known, and may not do this."""

    status = HTTPStatus.FORBIDDEN
    code = "forbidden"


class NotFound(AppError):
    """There is no such thing, or the caller may not know of it."""

    status = HTTPStatus.NOT_FOUND
    code = "not_found"


class MethodNotAllowed(AppError):
    """The path is served, but not under this method. ``Allow`` names those that are."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    code = "method_not_allowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__(f"{self.status.description}.", headers={"Allow": ", ".join(allowed)})


class Conflict(AppError):
    """The request contradicts what is stored."""

    status = HTTPStatus.CONFLICT
    code = "conflict"


class PreconditionFailed(AppError):
    """The thing was changed since the caller last read it."""

    status = HTTPStatus.PRECONDITION_FAILED
    code = "precondition_failed"


class TooManyRequests(AppError):
    """The caller has used up what it may ask for. ``Retry-After`` says when to come back."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "too_many_requests"


class Unavailable(AppError):
    """Something that the service depends on is away or busy; the caller may try again."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "unavailable"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class OutcomeUnknown(Unavailable):
    """The database was lost during the commit: it was done, or not, and who asks can find out."""

    code = "outcome_unknown"

    def __init__(self) -> None:
        super().__init__("The database was lost during the commit: see whether it was done.")
