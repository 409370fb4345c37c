"""Jobs of uploads: the scheduled clean-up, and the virus scan."""

from functools import partial
from uuid import UUID

from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.base.clamav import TooLargeToScan, find_malware
from app.platform.data import upload_cleanup, uploads
from app.platform.data.object_store import ObjectStore
from app.platform.data.uploads import Upload
from app.platform.jobs.context import JobContext, JobQueue
from app.platform.jobs.registry import job
from app.platform.settings import PlatformSettings

# Seconds. A worker that stops waits for its jobs, but not for minutes. ClamAV's own limit of a
# file, StreamMaxLength, is 100 MB by default.
CLEAN_TIMEOUT = SCAN_TIMEOUT = 60
# Seconds after which a scan has no retries left: the daemon was unavailable for longer than that.
UNSCANNED_AFTER = 3600
UNSCANNED_LIMIT = 500  # scans that one run of the clean-up enqueues again


@job(name="uploads.clean", cron="23 * * * *", retries=0, timeout=CLEAN_TIMEOUT)
async def clean(context: JobContext) -> dict[str, int]:
    """Delete stale uploads, and objects without one; return how many. The next run continues.

    Before that, uploads whose scan has failed for good are scanned again.
    """
    app = context._app
    settings: PlatformSettings = app.state.settings
    store: ObjectStore = app.state.uploads.store
    if settings.clamav_address:
        async with context.transaction() as session:
            queue = context.queue_for(session)
            for upload_id in await uploads.unscanned(session, UNSCANNED_AFTER, UNSCANNED_LIMIT):
                await queue.enqueue(scan, unique=f"uploads.scan:{upload_id}", upload_id=upload_id)
    cleaned = await upload_cleanup.clean(app.state.db, store, settings, CLEAN_TIMEOUT / 2)
    return vars(cleaned)


@job(name="uploads.scan", retries=8, timeout=SCAN_TIMEOUT)
async def scan(context: JobContext, upload_id: UUID) -> str:
    """Scan an upload: it is stored if nothing was found, and otherwise has failed.

    While the daemon is unavailable the upload stays pending: nobody reads what was not scanned.
    """
    app = context._app
    store: ObjectStore = app.state.uploads.store
    awaiting = select(Upload.size).where(Upload.id == upload_id, Upload.state == "pending")
    row = await context.read_session.first(awaiting)
    if row is None or row.size is None:
        return "deleted or scanned before"
    key, reason = uploads.key(upload_id), None
    try:
        parts = await store.read(key, 0, row.size)
        malware = await find_malware(app.state.settings.clamav_address, parts)
    except FileNotFoundError:
        reason = "The file is lost."
    except TooLargeToScan:
        reason = "The file is too large to be scanned."
    else:
        reason = f"The file contains malware: {malware}." if malware else None
    async with context.transaction() as session:
        recorded = await uploads.set_scanned(session, upload_id, reason)
    if reason and recorded:
        context.logger.warning("upload refused", upload_id=str(upload_id), reason=reason)
        await store.delete(key)
    return reason or "clean"


async def _enqueue(app: FastAPI, session: AsyncSession, upload_id: UUID) -> None:
    queue: JobQueue = app.state.jobs.queue_for(session)
    await queue.enqueue(scan, upload_id=upload_id)


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    """Let uploads be scanned, if there is a daemon; the import has registered the jobs."""
    if settings.clamav_address:
        app.state.upload_scan = partial(_enqueue, app)
