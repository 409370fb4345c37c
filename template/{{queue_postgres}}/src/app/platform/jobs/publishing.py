"""Publishing without a broker: one notification wakes the workers, which look into the table."""

from collections.abc import Sequence
from uuid import UUID

from fastapi import FastAPI

from app.platform.jobs.transport import Transport
from app.platform.settings import PlatformSettings

PUBLISH_GRACE = 0.0  # seconds; a worker may claim a job as soon as it is committed


async def publish_new(
    transport: Transport, settings: PlatformSettings, ids: Sequence[UUID]
) -> None:
    """Wake the workers for new jobs; raises if Postgres is unavailable."""
    await transport.publish(ids)


async def publish_due(app: FastAPI, settings: PlatformSettings, limit: int) -> int:
    """Publish nothing: workers find the jobs that have become due when they look for some."""
    return 0
