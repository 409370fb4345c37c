"""Object storage: an S3 bucket or a folder, by ``UPLOADS_URL``.

Objects are written once, under keys that nobody can choose, and read in ranges; a whole object is
never in memory. Credentials, region and endpoint of S3 come from botocore: from the environment, a
profile, or the role of the machine.
"""

import asyncio
import base64
import os
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from app.platform import about
from app.platform.base.errors import Unavailable
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Credential

logger = get_logger(__name__)

PART_SIZE = 8 * 1024 * 1024  # bytes; S3 takes 10,000 parts
CONCURRENT_DELETES = 20
CONCURRENT_PARTS = 2  # so that an upload needs at most 24 MiB
READ_SIZE = 256 * 1024  # bytes
CONNECT_TIMEOUT = 3  # seconds
# obstore asks again 5 minutes before this ends. botocore renews temporary credentials 10 minutes
# before they end, so that these are always valid.
CREDENTIALS_TTL = timedelta(minutes=10)
KEY = re.compile(r"[0-9a-f]{32}")
# The name that `object_store` gives to a file until it is complete.
INCOMPLETE = re.compile(r"[0-9a-f]{32}#\d+")


@dataclass(frozen=True)
class Link:
    """A request to the storage that a client may make; ``headers``: those that it has to send."""

    method: str
    url: str
    headers: dict[str, str]


class ObjectStore:
    """The objects below one URL. Raises ``Unavailable`` if the storage fails."""

    def __init__(self, settings: PlatformSettings) -> None:
        """Open the storage; this reads files, and may ask the machine for its role."""
        url = urlsplit(settings.uploads_url)
        self._timeout = settings.uploads_timeout
        self.folder: Path | None = None
        self._s3: Any = None
        if url.scheme == "s3":
            self._bucket, self._prefix = url.netloc, url.path.strip("/")
            self._store: LocalStore | S3Store = self._open_s3()
        else:
            default = about.project_folder() / ".local" / "uploads"
            self.folder = Path(unquote(url.path)) if url.path else default
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._store = LocalStore(prefix=self.folder)

    def _open_s3(self) -> S3Store:
        import botocore.session  # noqa: PLC0415 (0.2 s, for S3 alone)
        from botocore.config import Config  # noqa: PLC0415 (0.2 s, for S3 alone)

        session = botocore.session.get_session()
        client_config = Config(
            signature_version="s3v4", connect_timeout=CONNECT_TIMEOUT, retries={"mode": "standard"}
        )
        self._s3 = session.create_client("s3", config=client_config)

        # Not async: parts are sent by threads of obstore, which have no event loop.
        def credentials() -> "S3Credential":
            found = session.get_credentials()
            if found is None:
                raise RuntimeError("There are no credentials for S3.")
            frozen = found.get_frozen_credentials()
            expires_at = datetime.now(UTC) + CREDENTIALS_TTL
            return {
                "access_key_id": frozen.access_key,
                "secret_access_key": frozen.secret_key,
                "token": frozen.token,
                "expires_at": expires_at,
            }

        endpoint: str = self._s3.meta.endpoint_url
        config: S3Config = {"region": self._s3.meta.region_name or "us-east-1"}
        if not endpoint.endswith(".amazonaws.com"):
            config["endpoint"] = endpoint
        return S3Store(
            self._bucket,
            prefix=self._prefix or None,
            config=config,
            credential_provider=credentials,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": f"{CONNECT_TIMEOUT}s",
                "timeout": f"{self._timeout:.0f}s",
            },
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
        )

    def open_writer(self, key: str) -> "obstore.AsyncWritableFile":
        """A new object, for ``async with``: it exists once the block ends without an exception."""
        return obstore.open_writer_async(
            self._store, key, buffer_size=PART_SIZE, max_concurrency=CONCURRENT_PARTS
        )

    async def persist(self, key: str) -> None:
        """Wait until an object that was written survives a loss of power."""
        if self.folder is not None:
            with storage_errors():
                await asyncio.to_thread(_fsync, self.folder / key, self.folder)

    async def size(self, key: str) -> int | None:
        """Bytes of an object; ``None`` if there is none."""
        try:
            with storage_errors():
                return (await obstore.head_async(self._store, key))["size"]
        except FileNotFoundError:
            return None

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes of an object from ``start`` until before ``end``; ``end`` is after ``start``.

        Raises ``FileNotFoundError`` if there is no such object.
        """
        with storage_errors():
            found = await obstore.get_async(self._store, key, options={"range": (start, end)})
        return _parts(found)

    async def delete_all(self, keys: Sequence[str]) -> None:
        """Delete some objects at the same time, if they exist."""
        deletions = [self.delete(key) for key in keys]
        for error in await asyncio.gather(*deletions, return_exceptions=True):
            if error is not None:
                raise error

    async def delete(self, key: str) -> None:
        """Delete an object, if it exists."""
        with suppress(FileNotFoundError), storage_errors():
            await obstore.delete_async(self._store, key)

    async def list_keys(self, after: str = "") -> AsyncIterator[list[tuple[str, datetime]]]:
        """Batches of keys that come after one in sorting, with the time of their last change."""
        with storage_errors():
            async for batch in obstore.list(self._store, offset=after or None, chunk_size=1000):
                found = ((each["path"], each["last_modified"]) for each in batch)
                yield [(key, changed) for key, changed in found if KEY.fullmatch(key)]

    async def abort_incomplete(self, before: datetime) -> int:
        """Delete the parts of objects that were begun ``before`` and never completed; how many."""
        with storage_errors():
            return await asyncio.to_thread(
                self._abort_in_folder if self.folder else self._abort_in_s3, before
            )

    def _abort_in_folder(self, before: datetime) -> int:
        assert self.folder
        count = 0
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another one has just finished or deleted it
                    incomplete = INCOMPLETE.fullmatch(entry.name)
                    if incomplete and entry.stat().st_mtime < before.timestamp():
                        Path(entry.path).unlink()
                        count += 1
        return count

    def _abort_in_s3(self, before: datetime) -> int:
        count, prefix = 0, f"{self._prefix}/" if self._prefix else ""
        pages = self._s3.get_paginator("list_multipart_uploads")
        for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
            for found in page.get("Uploads", ()):
                key = found["Key"].removeprefix(prefix)
                if KEY.fullmatch(key) and found["Initiated"] < before:
                    self._s3.abort_multipart_upload(
                        Bucket=self._bucket, Key=found["Key"], UploadId=found["UploadId"]
                    )
                    count += 1
        return count

    async def checksum(self, key: str) -> bytes | None:
        """The SHA-256 that the storage itself has verified; ``None`` if it keeps none."""
        if self._s3 is None:
            return None
        with storage_errors():
            found = await asyncio.to_thread(
                self._s3.head_object, **self._object(key), ChecksumMode="ENABLED"
            )
        given = found.get("ChecksumSHA256")
        # That of an object in parts is one of checksums, and has their number behind it.
        return base64.b64decode(given) if given and "-" not in given else None

    async def link_to_put(
        self, key: str, *, media_type: str, size: int, sha256: bytes, ttl: int
    ) -> Link | None:
        """A request that writes one object once, of this type, size and checksum alone.

        ``None`` if the storage is a folder. All of these are signed headers of a PUT: the storage
        refuses another value, and, with ``If-None-Match``, a second time.
        """
        if self._s3 is None:
            return None
        checksum = base64.b64encode(sha256).decode()
        conditions = {
            "ContentType": media_type,
            "ContentLength": size,
            "ChecksumSHA256": checksum,
            "IfNoneMatch": "*",
        }
        url = await self._sign("put_object", {**self._object(key), **conditions}, ttl)
        headers = {
            "Content-Type": media_type,
            "x-amz-checksum-sha256": checksum,
            "If-None-Match": "*",
        }
        return Link("PUT", url, headers)

    async def link_to_get(
        self, key: str, *, media_type: str, disposition: str, ttl: int
    ) -> Link | None:
        """A request that reads an object with these headers; ``None`` if it is in a folder."""
        if self._s3 is None:
            return None
        headers = {"ResponseContentType": media_type, "ResponseContentDisposition": disposition}
        parameters = {**self._object(key), **headers}
        return Link("GET", await self._sign("get_object", parameters, ttl), {})

    def _object(self, key: str) -> dict[str, str]:
        path = f"{self._prefix}/{key}" if self._prefix else key
        return {"Bucket": self._bucket, "Key": path}

    async def _sign(self, operation: str, parameters: dict[str, Any], ttl: int) -> str:
        with storage_errors():
            url: str = await asyncio.to_thread(
                self._s3.generate_presigned_url, operation, Params=parameters, ExpiresIn=ttl
            )
        return url


@contextmanager
def storage_errors() -> Iterator[None]:
    """Raise ``Unavailable`` for a failure of the storage; ``FileNotFoundError`` passes."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        # botocore is imported for S3 alone.
        of_storage = isinstance(error, (BaseError, OSError))
        if not of_storage and not type(error).__module__.startswith("botocore."):
            raise
        reason = str(error).partition("\n")[0]
        logger.warning("storage unavailable", reason=f"{type(error).__name__}: {reason}")
        raise Unavailable("The storage of files is not available.") from error


async def _parts(found: "obstore.GetResult") -> AsyncIterator[bytes]:
    async for part in found.stream(min_chunk_size=READ_SIZE):
        yield bytes(part)


def _fsync(*paths: Path) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
