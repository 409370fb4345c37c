"""The clean-up of uploads, from both sides: rows without a use, and objects without a row.

What it deletes it never reads: it may run twice, at once and beside uploads.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from app.platform.data import uploads
from app.platform.data.database import Database
from app.platform.data.object_store import CONCURRENT_DELETES, ObjectStore
from app.platform.settings import PlatformSettings

BATCH_SIZE = 500  # rows of one transaction


@dataclass
class Cleaned:
    """Counts of deletions: ``uploads`` with their rows, ``objects`` without a row, ``parts``."""

    uploads: int = 0
    objects: int = 0
    parts: int = 0


async def clean(
    database: Database, store: ObjectStore, settings: PlatformSettings, seconds: float
) -> Cleaned:
    """Delete uploads that are deleted, never arrived or have failed, and what has no row.

    ``seconds``: after which no new batch begins; the next run continues.
    """
    end, cleaned = time.monotonic() + seconds, Cleaned()
    ttl = settings.uploads_pending_ttl
    count = BATCH_SIZE
    while count == BATCH_SIZE and time.monotonic() < end:
        async with database.transaction() as session:
            count = await uploads.expire(session, ttl, BATCH_SIZE)
    count = BATCH_SIZE
    while count == BATCH_SIZE and time.monotonic() < end:
        async with database.transaction() as session:
            ids = await uploads.deleted(session, BATCH_SIZE)
        await remove(database, store, ids)
        count = len(ids)
        cleaned.uploads += count
    before = datetime.now(UTC) - timedelta(seconds=ttl)
    cleaned.parts = await store.abort_incomplete(before)
    # From a key by chance: a run that ends too early does not always see the same objects.
    first = uuid4().hex
    for after, until in ((first, ""), ("", first)):
        async for batch in store.list_keys(after):
            old = [UUID(key) for key, at in batch if at < before and (not until or key <= until)]
            cleaned.objects += await _delete_unknown(database, store, old)
            if time.monotonic() >= end:
                return cleaned
    return cleaned


async def remove(database: Database, store: ObjectStore, ids: Sequence[UUID]) -> None:
    """Delete the objects of deleted uploads, and then their rows."""
    for some in _batches(ids):
        await store.delete_all([uploads.key(upload_id) for upload_id in some])
        async with database.transaction() as session:  # the next run does not begin with these
            await uploads.purge(session, some)


async def _delete_unknown(database: Database, store: ObjectStore, ids: list[UUID]) -> int:
    if not ids:
        return 0
    async with database.transaction() as session:
        unknown = await uploads.unknown(session, ids)
    for some in _batches(list(unknown)):
        await store.delete_all([uploads.key(upload_id) for upload_id in some])
    return len(unknown)


def _batches(ids: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    for start in range(0, len(ids), CONCURRENT_DELETES):
        yield ids[start : start + CONCURRENT_DELETES]
