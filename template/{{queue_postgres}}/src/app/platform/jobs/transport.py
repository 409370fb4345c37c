"""Transport without a broker: workers claim due jobs in the table, and NOTIFY wakes them.

A notification carries nothing and may be lost: workers also look every ``jobs_poll_interval``.
"""

from uuid import UUID

from fastapi import FastAPI
from sqlalchemy import func, select

from app.platform.base.components import AppFactory
from app.platform.data.database import Database
from app.platform.jobs.names import QUEUE
from app.platform.jobs.store import ACTIVE, JOBS
from app.platform.settings import PlatformSettings

NOTIFY = select(func.pg_notify(QUEUE, ""))
WAITING = select(func.count()).where(ACTIVE, JOBS.c.publish_at <= func.now())


class Transport:
    """Wakes the workers."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._database: Database = app.state.db

    async def publish(self, job_id: UUID) -> None:
        """Wake the workers, which find the jobs themselves; raises if Postgres is unavailable."""
        await self._database.execute(NOTIFY)

    async def depth(self) -> int:
        """Number of jobs that wait for a worker."""
        return await self._database.read(lambda c: c.execute(WAITING).scalar_one())


def run_worker(settings: PlatformSettings, create_app: AppFactory) -> int:
    """Run a worker until SIGTERM; return the exit code."""
    from app.platform.jobs import postgres_worker, worker  # noqa: PLC0415 (for workers alone)

    return worker.run(settings, create_app, postgres_worker.consume)
