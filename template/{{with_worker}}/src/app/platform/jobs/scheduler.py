"""The scheduler: starts scheduled jobs, and publishes whatever is due and not yet published.

That covers delayed jobs, retries, jobs whose lease ran out, and hints that Redis lost. Two of it
may run side by side: each tick and each job is given to one of them.
"""

import asyncio
import contextlib
import signal
import time
from datetime import datetime

from fastapi import FastAPI

from app.platform.base import heartbeat
from app.platform.base.components import AppFactory
from app.platform.jobs import pools, registry, store
from app.platform.jobs.attempt import reason
from app.platform.jobs.schedules import last_tick
from app.platform.jobs.transport import Transport
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

BATCH = 500  # jobs that are published, or forgotten, in one transaction
FORGET_EVERY = 60.0  # seconds
LONGEST_PAUSE = 30.0  # seconds between two attempts while Postgres or Redis is away

logger = get_logger(__name__)


class Scheduler:
    """What is done each ``jobs_poll_interval`` seconds."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._app = app
        self._settings = settings
        self._transport: Transport = app.state.transport
        self._forget_at = 0.0
        self._ticks: dict[str, datetime] = {}

    async def step(self) -> None:
        """Do everything that is due now."""
        if now := await self._app.state.read_session.first(store.NOW):
            await self.tick(now[0])
        while await self.publish() == BATCH:
            pass
        if time.monotonic() >= self._forget_at:
            await self.forget()
            self._forget_at = time.monotonic() + FORGET_EVERY

    async def tick(self, now: datetime) -> None:
        """Add the scheduled jobs whose time has come; after a pause, each of them once."""
        for kind in registry.scheduled():
            at = last_tick(kind.cron or "", now)
            if self._ticks.get(kind.name) == at:
                continue
            async with self._app.state.db.transaction() as session:
                if await store.claim_tick(session, kind.name, at):
                    await store.add(session, _scheduled(kind))
            self._ticks[kind.name] = at

    async def publish(self) -> int:
        """Publish a batch of due jobs, as far as the queue has room; return how many."""
        settings = self._settings
        room = min(BATCH, settings.jobs_queue_limit - await self._transport.depth())
        if room <= 0:
            return 0
        async with self._app.state.db.transaction() as session:
            ids = await store.claim_unpublished(session, room, settings.jobs_republish_after)
            # Before the commit: what the queue does not take stays unpublished.
            if ids:
                await self._transport.publish(ids)
        return len(ids)

    async def forget(self) -> None:
        """Delete results and dead jobs that are past their time."""
        keep = (self._settings.jobs_retention_days, self._settings.jobs_dead_retention_days)
        deleted = BATCH
        while deleted == BATCH:
            async with self._app.state.db.transaction() as session:
                deleted = await store.prune(session, *keep, limit=BATCH)


def _scheduled(kind: registry.JobDefinition) -> store.NewJob:
    return store.NewJob(
        name=kind.name,
        arguments=kind.to_json({}),
        unique_key=None,
        owner=None,
        request_id="",
        carrier={},
    )


async def run(settings: PlatformSettings, create_app: AppFactory) -> None:
    """Run until SIGTERM or SIGINT; outages are waited for."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings = pools.with_pool_size(settings, pools.SCHEDULER)
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        scheduler = Scheduler(app, settings)
        logger.info("scheduler started", schedules=[kind.name for kind in registry.scheduled()])
        await _loop(scheduler, settings.jobs_poll_interval, stop)
        logger.info("scheduler stopped")


async def _loop(scheduler: Scheduler, poll: float, stop: asyncio.Event) -> None:
    pause = poll
    while not stop.is_set():
        heartbeat.touch("scheduler")
        try:
            await scheduler.step()
            pause = poll
        except Exception as error:  # noqa: BLE001 (outages look many ways)
            pause = min(pause * 2, LONGEST_PAUSE)
            logger.warning("scheduler is waiting", seconds=pause, error=reason(error))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)
