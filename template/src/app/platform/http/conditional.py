"""Conditional requests (RFC 9110, section 13): ETags, 304 and 412."""

from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response

from app.platform.base.errors import PreconditionFailed
from app.platform.settings import PlatformSettings

# Cached by the caller alone, and revalidated before each use: the response is personal.
PRIVATE = "private, no-cache"


class NotModified(Exception):
    """The client's cached response is still valid."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = headers


class ConditionalRequest:
    """The preconditions of one request, and the validators of its response."""

    def __init__(self, request: Request, response: Response) -> None:
        self._request = request
        self._response = response

    def check_not_modified(
        self, etag: str, modified: datetime | None = None, cache_control: str = PRIVATE
    ) -> None:
        """Set the validators; raise ``NotModified`` if the client's cached response is valid."""
        headers = {"ETag": f'"{etag}"', "Cache-Control": cache_control}
        if modified:
            headers["Last-Modified"] = format_datetime(modified.astimezone(UTC), usegmt=True)
        if self._is_fresh(headers["ETag"], modified):
            raise NotModified(headers)
        self._response.headers.update(headers)

    def check_if_match(self, etag: str) -> None:
        """Raise ``PreconditionFailed`` if ``If-Match`` names another version."""
        condition = self._request.headers.get("if-match")
        if condition and condition != "*" and f'"{etag}"' not in _tags(condition):
            raise PreconditionFailed("The resource has changed since you read it; read it again.")

    def _is_fresh(self, etag: str, modified: datetime | None) -> bool:
        if condition := self._request.headers.get("if-none-match"):
            return condition == "*" or etag in (tag.removeprefix("W/") for tag in _tags(condition))
        since = _date(self._request.headers.get("if-modified-since"))
        # The header has whole seconds.
        return bool(modified and since and modified.replace(microsecond=0) <= since)


def _tags(header: str) -> Iterable[str]:
    return (tag.strip() for tag in header.split(","))


def _date(header: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(header) if header else None
    except (ValueError, OverflowError):
        return None
    return date if date and date.tzinfo else None


async def _conditional(request: Request, response: Response) -> ConditionalRequest:
    return ConditionalRequest(request, response)


ConditionalRequestDep = Annotated[ConditionalRequest, Depends(_conditional)]


async def _not_modified(_: Request, error: Exception) -> Response:
    assert isinstance(error, NotModified)
    return Response(status_code=304, headers=error.headers)


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    app.add_exception_handler(NotModified, _not_modified)
