"""A worker process that runs the service and its jobs in one event loop."""

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

from prometheus_client import start_http_server

from app.platform.base import heartbeat
from app.platform.base.components import AppFactory
from app.platform.base.threads import exit_process
from app.platform.jobs import capacity, pools
from app.platform.jobs.attempt import error_summary
from app.platform.jobs.consumer import RECONNECT_DELAY, Consumer
from app.platform.jobs.runner import Runner
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

logger = get_logger(__name__)


class Worker:
    """A consumer of jobs, which a queue wakes until ``stopping`` is set."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.stopping = asyncio.Event()

    def stop(self) -> None:
        """Start no more jobs; running ones have ``worker_shutdown_timeout`` seconds to finish."""
        self.consumer.stop()
        self.stopping.set()

    async def wait_for_stop(self, task: "asyncio.Task[Any]") -> None:
        """Wait until ``stop`` is called; raises what ``task`` raises before that."""
        stopping = asyncio.create_task(self.stopping.wait())
        done, _ = await asyncio.wait({stopping, task}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if task in done:
            task.result()


Consume = Callable[[PlatformSettings, Worker], Awaitable[None]]


def run(settings: PlatformSettings, create_app: AppFactory, consume: Consume) -> int:
    """Run jobs until SIGTERM or SIGINT; return the exit code.

    ``consume`` receives messages until ``worker.stopping`` is set, and calls
    ``worker.consumer.drain`` for each. It raises if the queue is unavailable.
    """
    # Not closed, and so not asyncio.run(): that would wait for every thread.
    asyncio.Runner().run(_run(settings, create_app, consume))
    exit_process(os.EX_OK)


async def _run(settings: PlatformSettings, create_app: AppFactory, consume: Consume) -> None:
    settings = pools.with_pool_size(settings, capacity.pool_size(settings))
    app = create_app(settings)
    touch = partial(heartbeat.touch, "worker")
    async with Runner(app, settings, touch) as runner, app.router.lifespan_context(app):
        concurrency = capacity.concurrency(settings)
        worker = Worker(Consumer(app, settings, runner, concurrency))
        _stop_on_signals(runner, worker)
        if settings.worker_metrics_port:
            start_http_server(settings.worker_metrics_port, registry=app.state.metrics.registry)
        touch()
        logger.info("worker started", concurrency=concurrency)
        with app.state.scheduler if settings.worker_scheduler else nullcontext():
            await _consume_until_stopped(settings, worker, consume)
            await worker.consumer.finish()
        logger.info("worker stopped")


def _stop_on_signals(runner: Runner, worker: Worker) -> None:
    """Stop on SIGTERM and SIGINT, also while a job blocks the event loop.

    A handler of the event loop would wait for that job; so would a Python one, if the job is in a
    call of another library. The file descriptor is written to at once, and read in a thread.
    """
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def stop_after_signal() -> None:
        stopping = {bytes([signal.SIGTERM]), bytes([signal.SIGINT])}
        while os.read(reading, 1) not in stopping:
            pass
        runner.stop()
        loop.call_soon_threadsafe(worker.stop)

    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    threading.Thread(target=stop_after_signal, name="signals", daemon=True).start()


async def _consume_until_stopped(
    settings: PlatformSettings, worker: Worker, consume: Consume
) -> None:
    while not worker.stopping.is_set():
        try:
            await consume(settings, worker)
        except Exception as error:  # noqa: BLE001 (outages raise many types)
            logger.warning("queue unavailable", error=error_summary(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(worker.stopping.wait(), RECONNECT_DELAY)
