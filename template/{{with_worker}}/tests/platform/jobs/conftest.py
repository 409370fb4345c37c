"""A service whose jobs these tests run themselves, and real workers for those that need them."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from sqlalchemy import delete, select

from app.platform.jobs import JobStatus, store
from app.platform.jobs.runner import Runner
from app.platform.jobs.scheduler import Scheduler
from app.settings import Settings
from tests.conftest import running_app

PATIENCE = 60.0  # seconds; the machine may be busy


class Service:
    """The service in this process, without a worker: the test is the worker."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.runner = Runner(app, settings)
        self.scheduler = Scheduler(app, settings)

    async def enqueue(self, function: Any, **arguments: Any) -> JobStatus:
        async with self.app.state.db.transaction() as session:
            status: JobStatus = await self.app.state.jobs.queue_for(session).enqueue(
                function, **arguments
            )
        return status

    async def status(self, job_id: UUID) -> JobStatus:
        rows = await self.app.state.read_session.all(
            select(*store.STATUS).where(store.Job.id == job_id)
        )
        return JobStatus.model_validate(rows[0])

    async def all(self) -> list[JobStatus]:
        rows = await self.app.state.read_session.all(
            select(*store.STATUS).order_by(store.Job.created_at)
        )
        return [JobStatus.model_validate(row) for row in rows]

    async def becomes(self, job_id: UUID, state: str) -> JobStatus:
        """Wait until a job is in a state."""
        end = time.monotonic() + PATIENCE
        while (status := await self.status(job_id)).status != state:
            assert time.monotonic() < end, f"still {status}"
            await asyncio.sleep(0.05)
        return status

    async def drained(self) -> None:
        """Wait until the queue holds nothing more."""
        end = time.monotonic() + PATIENCE
        while depth := await self.app.state.transport.depth():
            assert time.monotonic() < end, f"still {depth} in the queue"
            await asyncio.sleep(0.05)

    async def started(self, gate: str) -> int:
        """Wait until somebody runs ``samples.wait``; return the process group that does."""
        popped = await self.app.state.redis.blpop([f"{gate}:started"], timeout=PATIENCE)
        assert popped, "nobody started the job"
        return os.getpgid(int(popped[1]))


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Service]:
    """Run the service, with a short lease, short waits and an empty Redis."""
    # Redis answers a blocking pop after longer than its time-out.
    quick = {"jobs_lease": 1.0, "jobs_backoff": 0.05, "redis_timeout": PATIENCE + 5}
    changed = settings.model_copy(update=quick)
    async with running_app(changed) as app:
        await app.state.redis.flushdb()
        yield Service(app, changed)


@pytest.fixture
async def service(module_settings: Settings) -> AsyncIterator[Service]:
    async with serving(module_settings) as service:
        async with service.app.state.db.transaction() as session:
            for table in (store.Job, store.Schedule):
                await session.execute(delete(table))
        yield service
