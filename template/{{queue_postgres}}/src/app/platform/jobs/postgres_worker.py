"""Postgres consumer: woken by notifications, and by a poll behind them."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from app.platform.base.tasks import cancel
from app.platform.data.engine import create_engine
from app.platform.jobs.attempt import error_summary
from app.platform.jobs.consumer import RECONNECT_DELAY
from app.platform.jobs.names import QUEUE
from app.platform.jobs.worker import Worker
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

PING_INTERVAL = 10.0  # seconds, to notice a connection that has died silently

logger = get_logger(__name__)


async def consume(settings: PlatformSettings, worker: Worker) -> None:
    """Run jobs until the worker stops, through outages of Postgres."""
    woken = asyncio.Event()
    tasks = [asyncio.create_task(_wake_to_stop(worker, woken))]
    if not settings.db_pgbouncer:  # in its transaction mode, a session cannot LISTEN
        tasks.append(asyncio.create_task(_listen(settings, woken.set)))
    try:
        while not worker.stopping.is_set():
            woken.clear()
            await worker.consumer.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(settings.jobs_poll_interval):
                    await woken.wait()
    finally:
        await cancel(*tasks)


async def _wake_to_stop(worker: Worker, woken: asyncio.Event) -> None:
    await worker.stopping.wait()
    woken.set()


async def _listen(settings: PlatformSettings, wake: Callable[[], None]) -> None:
    """Receive notifications, on a connection outside of the pool."""
    engine = create_engine(settings, pooled=False)
    while True:
        try:
            async with engine.connect() as connection:
                driver = (await connection.get_raw_connection()).driver_connection
                assert driver
                await driver.add_listener(QUEUE, lambda *_: wake())
                wake()  # for the jobs that were committed before
                while True:
                    await asyncio.sleep(PING_INTERVAL)
                    await driver.execute("SELECT 1")
        except Exception as error:  # noqa: BLE001 (outages raise many types)
            logger.warning("no notifications of new jobs", error=error_summary(error))
        await asyncio.sleep(RECONNECT_DELAY)
