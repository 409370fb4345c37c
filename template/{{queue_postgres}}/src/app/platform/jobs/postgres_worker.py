"""Postgres consumer: claims due jobs in batches, as many as the worker has free slots."""

import asyncio
from contextlib import suppress

from sqlalchemy import bindparam, func, select

from app.platform.data.database import Database, create_engine
from app.platform.jobs import store
from app.platform.jobs.attempt import error_summary
from app.platform.jobs.names import QUEUE
from app.platform.jobs.store import ACTIVE, DUE, JOBS, Claim
from app.platform.jobs.worker import RECONNECT_DELAY, Worker
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

PING_INTERVAL = 10.0  # seconds, to notice a connection that has died silently
CLAIM_DUE = store.claiming(
    select(JOBS.c.id)
    .where(ACTIVE, JOBS.c.publish_at <= func.now(), DUE)
    .order_by(JOBS.c.publish_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)

logger = get_logger(__name__)


async def consume(settings: PlatformSettings, worker: Worker) -> None:
    """Claim and run jobs until the worker stops, through outages of Postgres."""
    consumer = Consumer(settings, worker)
    tasks = [asyncio.create_task(consumer.stop_with_worker())]
    if not settings.db_pgbouncer:  # in its transaction mode, a session cannot LISTEN
        tasks.append(asyncio.create_task(consumer.listen()))
    try:
        await consumer.run()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class Consumer:
    """Claims jobs while there may be any, and otherwise waits for a notification."""

    def __init__(self, settings: PlatformSettings, worker: Worker) -> None:
        self._settings = settings
        self._worker = worker
        self._database: Database = worker.runner.database
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._may_have_jobs = True

    async def run(self) -> None:
        while not self._worker.stopping.is_set():
            self._changed.clear()
            if self._may_have_jobs and (free := self._worker.concurrency - len(self._running)):
                self._may_have_jobs = False  # unless a notification comes from here on
                try:
                    claims = await self._claim(free)
                except Exception as error:  # noqa: BLE001 (outages raise many types)
                    logger.warning("queue unavailable", error=error_summary(error))
                    self._may_have_jobs = True
                    await self._wait_for_stop(RECONNECT_DELAY)
                    continue
                if len(claims) == free:
                    self._may_have_jobs = True
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.jobs_poll_interval):
                    await self._changed.wait()
                    continue
            self._may_have_jobs = True
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _claim(self, limit: int) -> list[Claim]:
        """Claim and start up to ``limit`` jobs."""
        lease = self._settings.jobs_lease
        claims = await store.execute_claim(self._database, CLAIM_DUE, lease, limit=limit)
        for claim in claims:
            task = asyncio.create_task(self._worker.runner.run_claimed(claim))
            self._running.add(task)
            task.add_done_callback(self._finished)
        return claims

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._changed.set()

    def _notified(self, *_: object) -> None:
        self._may_have_jobs = True
        self._changed.set()

    async def stop_with_worker(self) -> None:
        """Wake ``run`` when the worker stops."""
        await self._worker.stopping.wait()
        self._changed.set()

    async def _wait_for_stop(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._worker.stopping.wait(), seconds)

    async def listen(self) -> None:
        """Receive notifications, on a connection outside of the pool."""
        engine = create_engine(self._settings, pooled=False)
        while True:
            try:
                async with engine.connect() as connection:
                    driver = (await connection.get_raw_connection()).driver_connection
                    assert driver
                    await driver.add_listener(QUEUE, self._notified)
                    self._notified()  # for the jobs that were committed before
                    while True:
                        await asyncio.sleep(PING_INTERVAL)
                        await driver.execute("SELECT 1")
            except Exception as error:  # noqa: BLE001 (outages raise many types)
                logger.warning("no notifications of new jobs", error=error_summary(error))
            await asyncio.sleep(RECONNECT_DELAY)
