"""The errors that features raise; the response to each is an RFC 9457 problem document."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import ClassVar


class AppError(Exception):
    """An error that the caller can act on; ``detail`` is shown to the caller."""

    status: ClassVar[HTTPStatus] = HTTPStatus.BAD_REQUEST
    code: ClassVar[str] = "bad_request"

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})


class BadRequest(AppError):
    """The request is malformed."""


class Unauthorized(AppError):
    """The caller is not authenticated."""

    status = HTTPStatus.UNAUTHORIZED
    code = "unauthorized"


class Forbidden(AppError):
    """The caller is authenticated, but lacks permission."""

    status = HTTPStatus.FORBIDDEN
    code = "forbidden"


class NotFound(AppError):
    """The resource does not exist, or the caller may not see it."""

    status = HTTPStatus.NOT_FOUND
    code = "not_found"


class MethodNotAllowed(AppError):
    """The path does not support the method; ``Allow`` lists those that it supports."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    code = "method_not_allowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__(f"{self.status.description}.", headers={"Allow": ", ".join(allowed)})


class Conflict(AppError):
    """The request conflicts with the stored state."""

    status = HTTPStatus.CONFLICT
    code = "conflict"


class PreconditionFailed(AppError):
    """The resource has changed since the caller read it."""

    status = HTTPStatus.PRECONDITION_FAILED
    code = "precondition_failed"


class UnsupportedMediaType(AppError):
    """The body has another content type than the route takes."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    code = "unsupported_media_type"


class TooManyRequests(AppError):
    """The caller has exceeded a rate limit; ``Retry-After`` says when to try again."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "too_many_requests"


class Unavailable(AppError):
    """A dependency is unavailable or busy; the caller may retry."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "unavailable"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class DatabaseUnavailable(Unavailable):
    """The database can't be reached, or does not answer; the cause is the driver's error."""

    def __init__(self) -> None:
        super().__init__("The database is not available.")


class SchemaChanged(Unavailable):
    """A migration changed a type while the statement ran; the next attempt sees the new one."""

    def __init__(self) -> None:
        super().__init__("The database schema has just changed; try again.")


class OutcomeUnknown(Unavailable):
    """The connection was lost during the commit, which may or may not have succeeded."""

    code = "outcome_unknown"

    def __init__(self) -> None:
        super().__init__(
            "The database connection was lost during the commit; check whether the change was made."
        )
