"""Conditional requests (RFC 9110, section 13): ETags, 304 and 412.

A route's ETag is strong and names a version of the resource; ``compression`` gives the compressed
representation its own. A weak ``W/"1"`` in ``If-Match`` is accepted as ``"1"``: this service sends
none, so it is ours, weakened by a proxy that compresses, and still names the version. The RFC
compares strongly there, which would refuse every update through such a proxy.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from hashlib import blake2b
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from pydantic_core import to_json

from app.platform.base.errors import PreconditionFailed
from app.platform.http.cache_policy import POLICY_KEY
from app.platform.http.cache_policy import PRIVATE as PRIVATE
from app.platform.settings import PlatformSettings

ENTITY_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
# The age at which a modification date becomes a validator. Dates have whole seconds, a transaction
# has the time of its start, and clocks differ: until then, a later change can have the same date.
SETTLED_AFTER = timedelta(seconds=60)


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
        self, etag: str, modified: datetime | None = None, cache_control: str | None = None
    ) -> None:
        """Set the validators; raise ``NotModified`` if the client's cached response is valid.

        ``cache_control``: by default that of the route's cache policy, without one ``PRIVATE``.
        """
        headers = {"ETag": f'"{etag}"'}
        if cache_control or POLICY_KEY not in self._request.scope:
            headers["Cache-Control"] = cache_control or PRIVATE
        if modified and datetime.now(UTC) - modified >= SETTLED_AFTER:
            headers["Last-Modified"] = format_datetime(modified.astimezone(UTC), usegmt=True)
        if self._is_fresh(headers):
            raise NotModified(headers)
        self._response.headers.update(headers)

    def check_if_match(self, etag: str) -> None:
        """Raise ``PreconditionFailed`` if the request is for another version.

        ``If-Unmodified-Since`` is refused: dates have whole seconds, and could lose an update.
        """
        required, excluded = self._tags("if-match"), self._tags("if-none-match")
        if required is not None and not _matches(required, f'"{etag}"'):
            raise PreconditionFailed("The resource has changed since you read it; read it again.")
        if required is None and "if-unmodified-since" in self._request.headers:
            raise PreconditionFailed("Use If-Match: a date can't tell two changes in one second.")
        if excluded is not None and _matches(excluded, f'"{etag}"'):
            raise PreconditionFailed("If-None-Match excludes the current version.")

    def _is_fresh(self, validators: dict[str, str]) -> bool:
        tags = self._tags("if-none-match")
        if tags is not None:
            return _matches(tags, validators["ETag"])
        since = self._request.headers.getlist("if-modified-since")
        modified = _date(validators.get("Last-Modified"))
        # Only the date that this service sent: another one may be from the second of the change.
        return len(since) == 1 and modified is not None and _date(since[0]) == modified

    def _tags(self, name: str) -> Sequence[str] | None:
        """The entity tags of a condition, ``*`` among them; ``None`` without the condition."""
        values = self._request.headers.getlist(name)
        if not values:
            return None
        if "*" in (value.strip() for value in values):
            return ["*"]
        return ENTITY_TAG.findall(",".join(values))


def digest(*parts: object) -> str:
    """An ETag for a list: ``digest([(item.id, item.version) for item in items], page.next)``."""
    text = to_json(parts, bytes_mode="base64", fallback=repr)  # half the time of repr() for UUIDs
    return blake2b(text, digest_size=12).hexdigest()


def _matches(tags: Sequence[str], etag: str) -> bool:
    return etag in tags or "*" in tags


def _date(header: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(header) if header else None
    except (ValueError, OverflowError):
        return None
    return date if date and date.tzinfo else None


async def conditional_request(request: Request, response: Response) -> ConditionalRequest:
    return ConditionalRequest(request, response)


ConditionalRequestDep = Annotated[ConditionalRequest, Depends(conditional_request)]


async def _not_modified(_: Request, error: Exception) -> Response:
    assert isinstance(error, NotModified)
    return Response(status_code=304, headers=error.headers)


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    app.add_exception_handler(NotModified, _not_modified)
