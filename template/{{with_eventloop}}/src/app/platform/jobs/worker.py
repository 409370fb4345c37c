"""A worker that is one process with one event loop: in it, the whole service and its jobs."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

from fastapi import FastAPI
from prometheus_client import start_http_server

from app.platform.base import heartbeat
from app.platform.base.components import AppFactory
from app.platform.jobs import capacity, pools
from app.platform.jobs.attempt import reason
from app.platform.jobs.runner import Runner
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

PAUSE = 2.0  # seconds until the next attempt to reach a queue that is away

logger = get_logger(__name__)


class Worker:
    """Runs the jobs that a queue hands over, no more at once than it has slots."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self.concurrency = capacity.concurrency(settings)
        self.stopping = asyncio.Event()
        self._runner = Runner(app, settings)
        self._slots = asyncio.Semaphore(self.concurrency)

    async def run(self, job_id: object) -> None:
        """Run a job, if the ledger says that it is due."""
        async with self._slots:
            try:
                identity = UUID(str(job_id))
            except ValueError:
                logger.warning("the queue had something that is no job")
                return
            await self._runner.run(identity)

    def stop(self) -> None:
        """Begin no more jobs; the running ones have ``worker_shutdown_timeout`` seconds."""
        self.stopping.set()
        self._runner.stop()

    async def stopped_or_raised(self, task: "asyncio.Task[Any]") -> None:
        """Wait for ``stop``; raise what ``task`` raises before."""
        stopping = asyncio.create_task(self.stopping.wait())
        done, _ = await asyncio.wait({stopping, task}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if task in done:
            task.result()

    async def finish(self) -> None:
        """Wait until the running jobs have ended, or were given back."""
        for _ in range(self.concurrency):
            await self._slots.acquire()


Consume = Callable[[PlatformSettings, Worker], Awaitable[None]]


def run(settings: PlatformSettings, create_app: AppFactory, consume: Consume) -> int:
    """Run jobs until SIGTERM or SIGINT; return the exit code.

    ``consume`` takes job ids from the queue until ``stopping`` is set, and raises when it can't.
    """
    asyncio.run(_run(settings, create_app, consume))
    return os.EX_OK


async def _run(settings: PlatformSettings, create_app: AppFactory, consume: Consume) -> None:
    settings = pools.with_pool_size(settings, capacity.worker_connections(settings))
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        worker = Worker(app, settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, worker.stop)
        if settings.worker_metrics_port:
            start_http_server(settings.worker_metrics_port, registry=app.state.metrics.registry)
        beat = asyncio.create_task(_beat())
        logger.info("worker started", jobs_at_once=worker.concurrency)
        await _keep_consuming(settings, worker, consume)
        await worker.finish()
        beat.cancel()
        logger.info("worker stopped")


async def _beat() -> None:
    """Say that the event loop still turns."""
    while True:
        heartbeat.touch("worker")
        await asyncio.sleep(heartbeat.INTERVAL)


async def _keep_consuming(settings: PlatformSettings, worker: Worker, consume: Consume) -> None:
    while not worker.stopping.is_set():
        try:
            await consume(settings, worker)
        except Exception as error:  # noqa: BLE001 (outages look many ways)
            logger.warning("worker is waiting for the queue", error=reason(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(worker.stopping.wait(), PAUSE)
