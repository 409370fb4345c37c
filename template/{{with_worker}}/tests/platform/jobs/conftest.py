"""A service in the test process, whose jobs the tests run themselves."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from sqlalchemy import Uuid, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY

from app.platform.data.database import Database
from app.platform.jobs import JobStatus, store
from app.platform.jobs.runner import Runner
from app.platform.jobs.scheduler import Scheduler
from app.platform.jobs.status import JobRecord
from app.settings import Settings
from tests.conftest import running_platform

TIMEOUT = 60.0  # seconds, for a busy machine


CLAIM = store.claiming(
    select(store.JOBS.c.id)
    .where(
        store.JOBS.c.id == func.any(bindparam("ids", type_=ARRAY(Uuid))), store.ACTIVE, store.DUE
    )
    .order_by(store.JOBS.c.id)
    .with_for_update()
)


async def claim(database: Database, job_id: UUID, lease: float) -> list[store.Claim]:
    """Claim this job, if it is due."""
    return await store.execute_claim(database, CLAIM, lease, ids=[job_id])


class SingleRunner(Runner):
    """A runner that a test gives one job."""

    async def run(self, job_id: UUID) -> None:
        """Run this job, if it is due."""
        for claimed in await claim(self.database, job_id, self._settings.jobs_lease):
            await self.run_claimed(claimed)


class Service:
    """The service without worker processes, with helpers for its jobs."""

    def __init__(self, app: FastAPI, settings: Settings, runner: SingleRunner) -> None:
        self.app = app
        self.settings = settings
        self.runner = runner
        self.scheduler = Scheduler(app, settings)

    async def enqueue(self, function: Any, **arguments: Any) -> JobStatus:
        async with self.app.state.db.transaction() as session:
            status: JobStatus = await self.app.state.jobs.queue_for(session).enqueue(
                function, **arguments
            )
        return status

    async def status(self, job_id: UUID) -> JobRecord:
        rows = await self.app.state.read_session.all(
            select(*store.STATUS).where(store.Job.id == job_id)
        )
        return JobRecord.model_validate(rows[0])

    async def statuses(self) -> list[JobRecord]:
        """Every job, oldest first."""
        rows = await self.app.state.read_session.all(
            select(*store.STATUS).order_by(store.Job.created_at)
        )
        return [JobRecord.model_validate(row) for row in rows]

    async def wait_for_status(self, job_id: UUID, state: str) -> JobRecord:
        end = time.monotonic() + TIMEOUT
        while (status := await self.status(job_id)).status != state:
            assert time.monotonic() < end, f"still {status}"
            await asyncio.sleep(0.05)
        return status

    async def wait_until_queue_is_empty(self) -> None:
        end = time.monotonic() + TIMEOUT
        while depth := await self.app.state.transport.depth():
            assert time.monotonic() < end, f"still {depth} in the queue"
            await asyncio.sleep(0.05)

    async def wait_for_start(self, gate: str) -> int:
        """Wait until ``samples.wait_for_gate`` runs; return the process group that runs it."""
        popped = await self.app.state.redis.blpop([f"{gate}:started"], timeout=TIMEOUT)
        assert popped, "the job has not started"
        return os.getpgid(int(popped[1]))

    async def run_until_finished(self, job_id: UUID) -> None:
        """Run a job in this process, with its retries."""
        while not (await self.status(job_id)).finished:
            await self.runner.run(job_id)
            await asyncio.sleep(0.02)

    async def backdate(self, column: Any, seconds: float) -> None:
        """Move a timestamp of all jobs into the past."""
        async with self.app.state.db.transaction() as session:
            earlier = {column.key: column - timedelta(seconds=seconds)}
            await session.execute(update(store.Job).values(earlier))


@asynccontextmanager
async def running_service(settings: Settings) -> AsyncIterator[Service]:
    """The service without its API, with a short lease, short delays and an empty Redis."""
    # A blocking pop must not exceed the client's timeout.
    quick = {"jobs_lease": 1.0, "jobs_backoff": 0.05, "redis_timeout": TIMEOUT + 5}
    changed = settings.model_copy(update=quick)
    async with running_platform(changed) as app, SingleRunner(app, changed) as runner:
        await app.state.redis.flushdb()
        yield Service(app, changed, runner)


@pytest.fixture
async def service(module_settings: Settings) -> AsyncIterator[Service]:
    async with running_service(module_settings) as service:
        async with service.app.state.db.transaction() as session:
            for table in (store.Job, store.Schedule):
                await session.execute(delete(table))
        yield service
