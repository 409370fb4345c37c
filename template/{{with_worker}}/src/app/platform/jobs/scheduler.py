"""The scheduler: enqueues scheduled jobs, wakes workers for due jobs, and deletes old ones.

Due jobs are delayed jobs, retries, jobs with an expired lease, and jobs whose message was lost.
Several schedulers may run at once, each in a worker or as a process of its own: each tick and each
job is claimed by one of them.
"""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from functools import partial

from fastapi import FastAPI

from app.platform.base import heartbeat
from app.platform.base.components import AppFactory
from app.platform.base.threads import exit_process
from app.platform.data.database import ReadSession, open_database
from app.platform.data.redis import create_client
from app.platform.jobs import pools, registry, store
from app.platform.jobs.attempt import error_summary
from app.platform.jobs.publishing import publish_due
from app.platform.jobs.schedules import last_tick
from app.platform.jobs.transport import Transport
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

BATCH_SIZE = 500  # jobs that one transaction deletes
MAX_PRUNE = 1.0  # seconds that a step deletes jobs: what is scheduled or due waits meanwhile
PRUNE_INTERVAL = 60.0  # seconds
MAX_RETRY_DELAY = 30.0  # seconds, while Postgres or Redis is unavailable
CLOSE_TIMEOUT = 1.0  # seconds until a worker that stops no longer waits for its scheduler

logger = get_logger(__name__)


class Scheduler:
    """The work of one scheduler; ``step`` runs every ``jobs_poll_interval`` seconds."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._app = app
        self._settings = settings
        self._next_prune = 0.0
        self._last_ticks: dict[str, datetime] = {}

    async def step(self) -> None:
        """Enqueue what is scheduled, wake workers if jobs are due, and delete what is old."""
        if now := await self._app.state.read_session.first(store.NOW):
            await self.enqueue_scheduled(now[0])
        await publish_due(self._app)
        if time.monotonic() >= self._next_prune and await self.prune():
            self._next_prune = time.monotonic() + PRUNE_INTERVAL

    async def enqueue_scheduled(self, now: datetime) -> None:
        """Enqueue each job with a tick since the last call, once however many ticks it missed."""
        for definition in registry.scheduled():
            at = last_tick(definition.cron or "", now)
            if self._last_ticks.get(definition.name) == at:
                continue
            async with self._app.state.db.transaction() as session:
                if await store.claim_tick(session, definition.name, at):
                    await store.add(session, _new_job(definition))
            self._last_ticks[definition.name] = at

    async def prune(self) -> bool:
        """Delete finished jobs whose retention has passed; return whether none is left.

        The next step goes on where ``MAX_PRUNE`` is not enough.
        """
        retention = (self._settings.jobs_retention_days, self._settings.jobs_dead_retention_days)
        ends = time.monotonic() + MAX_PRUNE
        while True:
            async with self._app.state.db.transaction() as session:
                deleted = await store.prune(session, *retention, limit=BATCH_SIZE)
            if deleted < BATCH_SIZE:
                return True
            if time.monotonic() >= ends:
                return False


def _new_job(definition: registry.JobDefinition) -> store.NewJob:
    return store.NewJob(
        name=definition.name,
        arguments=definition.dump_arguments({}),
        unique_key=None,
        owner=None,
        request_id="",
        trace_context={},
    )


async def run(settings: PlatformSettings, create_app: AppFactory) -> None:
    """Run until SIGTERM or SIGINT, through outages of Postgres and Redis."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings = pools.with_pool_size(settings, pools.SCHEDULER_CONNECTIONS)
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        await _loop(app, settings, stop, partial(heartbeat.touch, "scheduler"))


class SchedulerThread:
    """A scheduler within a worker: a thread that no job can block, with its own event loop.

    It has one connection to Postgres. A step that the end of the process cuts off is rolled back.
    """

    def __init__(self, settings: PlatformSettings) -> None:
        self._settings = settings
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()
        self._started.result()

    def __exit__(self, *_: object) -> None:
        self._own_loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CLOSE_TIMEOUT)

    def _run(self) -> None:
        try:
            asyncio.run(self._schedule())
        except Exception:
            logger.exception("scheduler failed")
            exit_process(os.EX_SOFTWARE)  # and be started again

    async def _schedule(self) -> None:
        self._own_loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._started.set_result(None)
        settings = self._settings
        async with open_database(settings) as database, create_client(settings) as redis:
            app = FastAPI()
            app.state.db, app.state.read_session = database, ReadSession(database)
            app.state.redis = redis
            app.state.transport = Transport(app, settings)
            await _loop(app, settings, self._stop)


async def _loop(
    app: FastAPI,
    settings: PlatformSettings,
    stop: asyncio.Event,
    touch: Callable[[], None] = lambda: None,
) -> None:
    scheduler = Scheduler(app, settings)
    logger.info("scheduler started", jobs=[each.name for each in registry.scheduled()])
    interval = delay = settings.jobs_poll_interval
    while not stop.is_set():
        touch()
        try:
            await scheduler.step()
            delay = interval
        except Exception as error:  # noqa: BLE001 (outages raise many types)
            delay = min(delay * 2, MAX_RETRY_DELAY)
            logger.warning("scheduler step failed", retry_in_s=delay, error=error_summary(error))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), delay)
    logger.info("scheduler stopped")
