"""Uploads: files of records, streamed to the storage and back, or sent there by the client itself.

A file belongs to a record, such as ``orders:7``, and to an owner. Its row is added before the first
byte is stored, in a transaction of its own, and says afterwards what became of it. No connection to
the database is held while a file is in transit.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

import prometheus_client
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from app.platform.base import context
from app.platform.base.components import Lifespan
from app.platform.base.errors import (
    AppError,
    BadRequest,
    Conflict,
    NotFound,
    TooManyRequests,
    Unavailable,
    UnsupportedMediaType,
)
from app.platform.base.files import HEAD_SIZE, content_disposition, safe_name, sniff
from app.platform.data import upload_cleanup
from app.platform.data import uploads as table
from app.platform.data.database import Database, ReadSession, on_commit
from app.platform.data.object_store import Link, ObjectStore, storage_errors
from app.platform.http.byte_ranges import byte_range
from app.platform.http.conditional import ConditionalRequest
from app.platform.http.upload_commands import add_commands as add_commands
from app.platform.http.upload_schemas import DownloadLink, UploadCreate, UploadLink, UploadRead
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

logger = get_logger(__name__)

RETRY_AFTER = 10  # seconds
STALL_TIMEOUT = 30.0  # seconds until a client that sends nothing is given up
REMOVE_TIMEOUT = 5.0  # seconds that a response waits for the storage to delete its objects
# Raises an error unless the caller may change the record; locks its row until the commit.
Authorize = Callable[[AsyncSession], Awaitable[object]]
# Enqueues a scan of an upload in the transaction that records its arrival.
Scan = Callable[[AsyncSession, UUID], Awaitable[object]]


class UploadRefused(AppError):
    """The file is not what the client said, or not what is accepted."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "upload_refused"


class UploadStalled(AppError):
    """The client has stopped sending."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "request_timeout"

    def __init__(self) -> None:
        super().__init__("The body did not arrive in time.", headers={"Connection": "close"})


class NotStored(Conflict):
    """The file has not arrived, is being scanned, or has failed."""

    code = "upload_not_stored"


class LinksUnavailable(Conflict):
    """The storage is a folder, which clients can't reach."""

    code = "upload_links_unavailable"

    def __init__(self) -> None:
        super().__init__("The storage has no links: use the service itself.")


@dataclass(frozen=True)
class _Received:
    media_type: str
    size: int
    digest: bytes


class Uploads:
    """The uploads of all records. ``scan``: set by a component; without it, nothing is scanned."""

    def __init__(self, app: FastAPI, settings: PlatformSettings, store: ObjectStore) -> None:
        self._app = app
        self._settings = settings
        self.store = store
        self.scan: Scan | None = getattr(app.state, "upload_scan", None)
        self._in_transit = Counter[str]()  # by owner
        registry = app.state.metrics.registry
        self._outcomes = prometheus_client.Counter(
            "uploads", "Uploads that have arrived or failed.", ["outcome"], registry=registry
        )
        self._bytes = prometheus_client.Counter(
            "upload_bytes", "Bytes of files that have arrived.", registry=registry
        )

    @property
    def _database(self) -> Database:
        database: Database = self._app.state.db
        return database

    @property
    def _read_session(self) -> ReadSession:
        session: ReadSession = self._app.state.read_session
        return session

    async def receive(
        self, request: Request, *, owner: str, record: str, name: str, authorize: Authorize
    ) -> UploadRead:
        """Store the body of a request as a file of ``record``.

        ``authorize`` runs in the transactions before and after the transfer. The route must not
        have a transaction open. Raises ``UnsupportedMediaType`` for contents of a type that is not
        accepted, ``Conflict`` if the record has too many files, ``Unavailable`` while the process
        receives as many as it may, ``TooManyRequests`` if half of these are the owner's, and
        answers 413 for a large one.
        """
        if "json" in request.headers.get("Content-Type", "").lower():
            # The check for strict JSON keeps a body in memory.
            raise UnsupportedMediaType("Send the file as application/octet-stream.")
        # Each keeps parts in memory, for as long as its client is slow.
        if self._in_transit.total() >= self._settings.uploads_limit:
            raise Unavailable("Too many uploads at once; try again.", retry_after=RETRY_AFTER)
        if self._in_transit[owner] >= max(1, self._settings.uploads_limit // 2):
            headers = {"Retry-After": str(RETRY_AFTER)}
            raise TooManyRequests("You send too many files at once.", headers=headers)
        self._in_transit[owner] += 1
        try:
            upload_id, size = await self._receive(request, owner, record, name, authorize)
        finally:
            self._in_transit -= Counter([owner])  # which leaves no zero
        self._count("stored", size)
        return await self.get(self._read_session, upload_id, owner=owner, record=record)

    async def _receive(
        self, request: Request, owner: str, record: str, name: str, authorize: Authorize
    ) -> tuple[UUID, int]:
        await _raise_limits(request, self._settings)
        upload_id = await self._add(owner, record, name, authorize)
        try:
            received = await self._store_body(request, upload_id)
            await self._set_received(
                upload_id,
                authorize,
                name=safe_name(name, received.media_type),
                media_type=received.media_type,
                size=received.size,
                sha256=received.digest,
            )
        except BaseException as error:
            await self._discard(upload_id, _reason(error))
            if isinstance(error, ClientDisconnect):
                raise BadRequest("The body ended early.") from None
            raise
        return upload_id, received.size

    async def _store_body(self, request: Request, upload_id: UUID) -> _Received:
        """Write the body to the storage, chunk by chunk; an exception leaves no object."""
        digest, size = sha256(), 0
        async with aclosing(_chunks(request)) as chunks:
            head = b""
            async for chunk in chunks:
                head += chunk
                if len(head) >= HEAD_SIZE:
                    break
            media_type = self._accepted(head)
            key = table.key(upload_id)
            with storage_errors():
                async with self.store.open_writer(key) as file:
                    chunk = head
                    while chunk:
                        digest.update(chunk)
                        size += len(chunk)
                        await file.write(chunk)
                        chunk = await anext(chunks, b"")
        await self.store.persist(key)
        return _Received(media_type, size, digest.digest())

    def _accepted(self, head: bytes) -> str:
        media_type = sniff(head)
        if media_type not in self._settings.uploads_types:
            accepted = ", ".join(self._settings.uploads_types)
            raise UnsupportedMediaType(f"The contents are of none of these types: {accepted}.")
        return media_type

    async def create_link(
        self, data: UploadCreate, *, owner: str, record: str, authorize: Authorize
    ) -> UploadLink:
        """A link with which the client sends a file to the storage; ``complete`` comes after it.

        The link is for this file alone: its size, type and SHA-256 are part of the signature, and
        it can't be used twice. Raises ``LinksUnavailable`` if the storage is a folder.
        """
        settings = self._settings
        if self.store.folder:
            raise LinksUnavailable
        if data.media_type not in settings.uploads_types:
            raise UploadRefused(f"Accepted types are {', '.join(settings.uploads_types)}.")
        if data.size > settings.uploads_max_size:
            raise UploadRefused(f"A file has at most {settings.uploads_max_size} bytes.")
        checksum = bytes.fromhex(data.sha256)
        declared: dict[str, Any] = {
            "media_type": data.media_type,
            "size": data.size,
            "sha256": checksum,
        }
        name = safe_name(data.name, data.media_type)
        upload_id = await self._add(owner, record, name, authorize, **declared)
        link = await self.store.link_to_put(
            table.key(upload_id), **declared, ttl=settings.uploads_link_ttl
        )
        if link is None:
            raise LinksUnavailable
        return UploadLink(
            id=upload_id,
            method=link.method,
            url=link.url,
            headers=link.headers,
            expires_at=_expiry(settings),
        )

    async def complete(
        self, upload_id: UUID, *, owner: str, record: str, authorize: Authorize
    ) -> UploadRead:
        """Accept a file that the client has sent to the storage, once it is verified.

        The storage has refused other sizes, types and contents; they are verified all the same,
        with the whole file if the storage keeps no checksum. Raises ``Conflict`` if the file is not
        there, ``UploadRefused`` if it is not the one that was announced.
        """
        context.current().deadline = time.monotonic() + self._settings.uploads_timeout
        found = await _row(self._read_session, owner, record, upload_id)
        if found.received_at is not None:
            return UploadRead.model_validate(found)  # repeated
        if found.state != "pending" or found.sha256 is None:
            raise NotStored("This upload is not one that waits for a file in the storage.")
        size = await self.store.size(table.key(upload_id))
        if size is None:
            raise Conflict("The file is not in the storage yet; send it to the link first.")
        if refusal := await self._difference(found, size):
            await self._discard(upload_id, refusal)
            raise UploadRefused(refusal)
        await self._set_received(upload_id, authorize)
        self._count("stored", size)
        return await self.get(self._read_session, upload_id, owner=owner, record=record)

    async def _difference(self, declared: Any, size: int) -> str | None:
        """The difference between an uploaded object and its declaration."""
        if size != declared.size:
            return f"The file has {size} bytes, and {declared.size} were announced."
        key = table.key(declared.id)
        parts = await self.store.read(key, 0, min(size, HEAD_SIZE))
        head = b"".join([part async for part in parts])
        if sniff(head) != declared.media_type:
            return f"The contents are not of type {declared.media_type}."
        checksum = await self.store.checksum(key)
        if checksum is None:
            digest = sha256()
            async for part in await self.store.read(key, 0, size):
                digest.update(part)
            checksum = digest.digest()
        if checksum != declared.sha256:
            return "The contents have another SHA-256 than was announced."
        return None

    async def of_record(
        self, session: ReadSession, *, owner: str, record: str
    ) -> Sequence[UploadRead]:
        """The uploads of a record, the oldest first."""
        rows = await session.all(table.BY_RECORD, of_owner=owner, of_record=record)
        return [UploadRead.model_validate(row) for row in rows]

    async def get(
        self, session: ReadSession, upload_id: UUID, *, owner: str, record: str
    ) -> UploadRead:
        """An upload. Raises ``NotFound`` also if it belongs to another owner or record."""
        return UploadRead.model_validate(await _row(session, owner, record, upload_id))

    async def send(self, request: Request, upload: UploadRead) -> Response:
        """The response with a file, or the range of it that the request names.

        A browser saves it and never shows it. Raises ``NotStored`` for one that is not stored.
        """
        size, media_type, digest = _stored(upload)
        validators = Response()
        ConditionalRequest(request, validators).check_not_modified(etag=digest)
        headers = {
            "ETag": validators.headers["ETag"],
            "Cache-Control": validators.headers["Cache-Control"],
            "Accept-Ranges": "bytes",
            "Content-Disposition": content_disposition(upload.name),
            "Content-Type": media_type,
            "X-Content-Type-Options": "nosniff",
        }
        unchanged = request.headers.get("If-Range", headers["ETag"]) == headers["ETag"]
        given = request.headers.get("Range") if unchanged and request.method == "GET" else None
        part = byte_range(given, size)
        start, end = part or (0, size)
        headers["Content-Length"] = str(end - start)
        if part:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        status = HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers)
        try:
            parts = await self.store.read(table.key(upload.id), start, end)
        except FileNotFoundError:
            logger.error("object missing", upload_id=str(upload.id))
            raise NotFound("The file is lost.") from None
        return StreamingResponse(parts, status, headers)

    async def download_link(self, upload: UploadRead) -> DownloadLink:
        """A link with which anyone can read a file from the storage, for ``UPLOADS_LINK_TTL``.

        Raises ``NotStored``, and ``LinksUnavailable`` if the storage is a folder.
        """
        _, media_type, _ = _stored(upload)
        link: Link | None = await self.store.link_to_get(
            table.key(upload.id),
            media_type=media_type,
            disposition=content_disposition(upload.name),
            ttl=self._settings.uploads_link_ttl,
        )
        if link is None:
            raise LinksUnavailable
        return DownloadLink(url=link.url, expires_at=_expiry(self._settings))

    async def delete(
        self, session: AsyncSession, *, owner: str, record: str, upload_id: UUID | None = None
    ) -> None:
        """Delete an upload of a record, or all of them, in the transaction of ``session``.

        Objects are deleted after the commit; those of a process that dies then, by the clean-up.
        Raises ``NotFound`` if there is no such upload.
        """
        ids = await table.set_deleted(session, owner, record, upload_id)
        if upload_id is not None and not ids:
            raise NotFound("There is no such file.")
        on_commit(session, partial(self._remove, ids))

    async def _remove(self, ids: list[UUID]) -> None:
        try:
            async with asyncio.timeout(REMOVE_TIMEOUT):
                await upload_cleanup.remove(self._database, self.store, ids)
        except Exception as error:  # noqa: BLE001 (the change is committed; the clean-up tries again)
            logger.warning("objects not deleted yet", error=type(error).__name__)

    async def _add(
        self, owner: str, record: str, name: str, authorize: Authorize, **declared: Any
    ) -> UUID:
        maximum = self._settings.uploads_per_record
        async with self._database.transaction() as session:
            await authorize(session)
            upload_id = await table.add(session, owner, record, name[:1000], maximum, **declared)
        if upload_id is None:
            raise Conflict(f"There are {maximum} files already; delete one first.")
        return upload_id

    async def _set_received(self, upload_id: UUID, authorize: Authorize, **values: Any) -> None:
        """Record that the whole file has arrived, and enqueue its scan; set ``values``."""
        async with self._database.transaction() as session:
            await authorize(session)
            state: table.State = "pending" if self.scan else "stored"
            if not await table.set_received(session, upload_id, state, **values):
                raise NotFound("The file was deleted, or completed by another request.")
            if self.scan:
                await self.scan(session, upload_id)

    async def _discard(self, upload_id: UUID, reason: str) -> None:
        """Record a failure, and delete the object; unless the file was recorded as arrived."""
        try:
            async with self._database.transaction() as session:
                failed = await table.set_failed(session, upload_id, reason)
            if failed:
                await self.store.delete(table.key(upload_id))
                self._count("failed")
        except Exception as error:  # noqa: BLE001 (the first error matters; the clean-up does the rest)
            logger.warning("failed upload not recorded", error=type(error).__name__)

    def _count(self, outcome: str, size: int = 0) -> None:
        self._outcomes.labels(outcome).inc()
        self._bytes.inc(size)


async def _row(session: ReadSession, owner: str, record: str, upload_id: UUID) -> Any:
    row = await session.first(table.BY_ID, of_owner=owner, of_record=record, upload_id=upload_id)
    if row is None:
        raise NotFound("There is no such file.")
    return row


async def _raise_limits(request: Request, settings: PlatformSettings) -> None:
    """Raise the limits of this request's body and time above those of other requests."""

    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        """Do nothing: the middleware, nested in the core's, replaces its limit."""

    limit = RequestBodyLimitMiddleware(nothing, settings.uploads_max_size)
    await limit(request.scope, request.receive, _send_nothing)
    context.current().deadline = time.monotonic() + settings.uploads_timeout


async def _send_nothing(message: Any) -> None:
    """Send nothing."""


async def _chunks(request: Request) -> AsyncGenerator[bytes]:
    """The parts of the body that are not empty."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(STALL_TIMEOUT):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise UploadStalled from None
        if chunk is None:
            return
        if chunk:
            yield chunk


def _reason(error: BaseException) -> str:
    if isinstance(error, AppError):
        return error.detail
    if isinstance(error, ClientDisconnect | asyncio.CancelledError):
        return "The file did not arrive in time, or its connection was lost."
    if getattr(error, "status_code", None) == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return "The file is too large."
    return "The file was not stored."


def _stored(upload: UploadRead) -> tuple[int, str, str]:
    """Size, type and SHA-256 of an upload that is stored."""
    values = upload.size, upload.media_type, upload.sha256
    if upload.state != "stored" or None in values:
        raise NotStored(upload.reason or "The file has not arrived, or is being scanned.")
    return values  # type: ignore[return-value]  # none of them is None


def _expiry(settings: PlatformSettings) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=settings.uploads_link_ttl)


async def _uploads(request: Request) -> Uploads:
    uploads: Uploads = request.app.state.uploads
    return uploads


UploadsDep = Annotated[Uploads, Depends(_uploads)]


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        store = await asyncio.to_thread(ObjectStore, settings)
        app.state.uploads = Uploads(app, settings, store)
        yield

    return lifespan
