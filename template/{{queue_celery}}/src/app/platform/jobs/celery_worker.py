"""The Celery worker: a main process that receives messages, and children that run one job each.

The app is created before the fork, in memory that the children share. Each runs the app's lifespan,
in one event loop in a thread. The main process opens no connections to Postgres.
"""

import logging
import os
import shutil
import signal
import tempfile
import time
import warnings
from contextlib import AbstractContextManager, ExitStack, suppress
from ctypes import Array
from functools import partial
from multiprocessing.sharedctypes import RawArray
from queue import Empty
from types import FrameType
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from billiard import current_process, set_start_method
from billiard.util import get_logger
from celery import bootsteps, shared_task, signals
from celery.exceptions import SecurityWarning
from celery.worker import WorkController, state
from fastapi import FastAPI
from kombu.transport import redis
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from app.platform.base import heartbeat
from app.platform.base.components import AppFactory
from app.platform.base.threads import exit_process
from app.platform.data.preload import import_before_fork
from app.platform.jobs import capacity, pools
from app.platform.jobs.celery_app import celery_app
from app.platform.jobs.consumer import Consumer
from app.platform.jobs.names import QUEUE, TASK
from app.platform.jobs.runner import Runner
from app.platform.observability import logs
from app.platform.settings import PlatformSettings

STOP_SIGNAL = signal.SIGUSR2  # from the main process to its children
RESTART_DELAY = 2.0  # seconds until a child that failed to start is replaced
METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

logger = logging.getLogger(__name__)


class QoS(redis.QoS):
    """Frees the prefetch slot of a message even if its acknowledgement does not reach Redis.

    Kombu would keep the slot until the connection breaks. With no slot left it sends nothing to
    Redis, so the connection never breaks. If Redis redelivers the message, the store ignores it.
    """

    def ack(self, delivery_tag: str) -> None:
        self._quick_ack(delivery_tag)
        super().ack(delivery_tag)  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self._quick_ack(delivery_tag)
        super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]


class Channel(redis.Channel):
    """Discards malformed messages, which would stop this worker and then the next one."""

    QoS = QoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, LookupError, TypeError, AttributeError):
            logger.warning("malformed message in the queue")
            raise Empty from None

    def close(self) -> None:
        # Return unprocessed messages to the queue, unless Redis is unavailable: that would stop
        # the worker. The store still has every job.
        self.do_restore = bool(self.connection and self.connection.client)
        super().close()  # type: ignore[no-untyped-call]


class Child:
    """State of a child process, which runs one job at a time."""

    app: FastAPI
    settings: PlatformSettings
    heartbeats: Array[Any]  # one per child, by its index; in shared memory
    entered: AbstractContextManager[BlockingPortal]
    portal: BlockingPortal
    runner: Runner
    consumer: Consumer
    stack: ExitStack

    def start(self, **_: Any) -> None:
        """Start the service; on failure, exit and be replaced by the main process.

        The heartbeat of a child that can't start stays where it is, and becomes stale.
        """
        index = current_process().index

        def touch() -> None:
            self.heartbeats[index] = time.time()

        try:
            if self.settings.worker_metrics_port:
                os.environ["WORKER_SLOT"] = str(index)
            app, settings = self.app, self.settings
            self.runner = Runner(app, settings, touch)
            self.stack = ExitStack()
            # Never left: its end would wait for every thread, where the process just exits.
            self.entered = start_blocking_portal()
            self.portal = self.entered.__enter__()
            for resource in (self.runner, app.router.lifespan_context(app)):
                self.stack.enter_context(self.portal.wrap_async_context_manager(resource))
            self.consumer = self.portal.call(Consumer, app, settings, self.runner, 1)
            if index == 0 and settings.worker_scheduler:  # one for the whole worker
                self.stack.enter_context(app.state.scheduler)
        except BaseException:
            logger.exception("worker child failed to start")
            time.sleep(RESTART_DELAY)
            exit_process(os.EX_SOFTWARE)
        signal.signal(STOP_SIGNAL, self.drain)

    def drain(self, _signal: int, _frame: FrameType | None) -> None:
        """Give the running job ``worker_shutdown_timeout`` seconds to finish."""
        self.consumer.stop()
        self.runner.stop()

    def stop(self, **_: Any) -> None:
        self.stack.close()


child = Child()
signals.worker_process_init.connect(child.start)
signals.worker_process_shutdown.connect(child.stop)


@shared_task(name=TASK)  # type: ignore[untyped-decorator]
def run_jobs(*_message: object, **_: object) -> None:
    """Run the jobs that are due, one after the other."""
    child.portal.call(child.consumer.drain)
    child.portal.call(child.consumer.finish)  # a worker that stops drains no further


class Heartbeat(bootsteps.StartStopStep):  # type: ignore[misc]
    """Passes the oldest heartbeat of the children on, as long as the main process works itself."""

    requires = ("celery.worker.components:Timer",)

    def start(self, worker: WorkController) -> None:
        self.touch()
        worker.timer.call_repeatedly(heartbeat.INTERVAL, self.touch)

    def touch(self) -> None:
        heartbeat.touch("worker", at=min(child.heartbeats))


def run(settings: PlatformSettings, create_app: AppFactory) -> int:
    """Run jobs until SIGTERM or SIGINT; return the exit code."""
    logs.configure(settings)
    # Children inherit these, which requires a fork; on macOS, billiard would spawn them instead.
    child.settings = pools.with_pool_size(settings, capacity.POOL_SIZE_OF_CHILD)
    child.app = create_app(child.settings)
    import_before_fork(settings)
    children = capacity.concurrency(settings)
    child.heartbeats = RawArray("d", [time.time()] * children)
    set_start_method("fork", force=True)
    # Celery warns about pickled messages when run as root; these messages are JSON.
    warnings.simplefilter("ignore", SecurityWarning)
    if settings.worker_metrics_port:
        # Children write their metrics there.
        os.environ[METRICS_DIRECTORY] = tempfile.mkdtemp(prefix="worker-metrics-")
    celery = celery_app(settings.redis_url.get_secret_value(), settings.redis_timeout)
    redis.Transport.Channel = Channel
    celery.steps["worker"].add(Heartbeat)
    worker = celery.Worker(
        pool="prefork",
        concurrency=children,
        queues=[QUEUE],
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    signals.worker_ready.connect(partial(_ready, worker, settings), weak=False)
    try:
        worker.start()
    finally:
        if settings.worker_metrics_port:
            shutil.rmtree(os.environ[METRICS_DIRECTORY], ignore_errors=True)
    return worker.exitcode or 0


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _keep_logging(**_: Any) -> None:
    """Keep the service's logging: without a receiver for this signal, Celery configures its own."""
    # Billiard's logger has no handler and does not propagate, so Python would print its lines.
    get_logger().propagate = True
    # Two lines per job only repeat the runner's; those of Billiard are for its developers.
    for name in ("celery.worker.strategy", "celery.app.trace", get_logger().name):
        logging.getLogger(name).setLevel(logging.WARNING)


def _ready(worker: WorkController, settings: PlatformSettings, **_: Any) -> None:
    """Once children run: replace Celery's shutdown, which waits indefinitely, and serve metrics."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        state.should_stop = os.EX_OK
        for pid in worker.pool.info["processes"]:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, STOP_SIGNAL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if settings.worker_metrics_port:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, os.environ[METRICS_DIRECTORY])  # type: ignore[no-untyped-call]
        start_http_server(settings.worker_metrics_port, registry=registry)
