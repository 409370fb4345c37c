"""Publishing without a broker: one notification wakes the workers, which look into the table."""

from collections.abc import Sequence
from uuid import UUID

from fastapi import FastAPI

from app.platform.jobs.transport import Transport
from app.platform.settings import PlatformSettings


async def publish_new(
    transport: Transport, settings: PlatformSettings, ids: Sequence[UUID]
) -> None:
    """Wake the workers for new jobs; raises if Postgres is unavailable."""
    await transport.publish(ids[0])


async def publish_due(app: FastAPI) -> None:
    """Publish nothing: workers find the jobs that have become due when they look for some."""


async def pass_on(app: FastAPI, job_id: UUID) -> None:
    """Wake nobody: a notification has reached all workers."""
