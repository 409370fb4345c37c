"""The Celery worker: a main process that takes job ids, and children that run one job at a time.

Each child has one event loop, in a thread, that turns as long as the child lives, and in it the
whole service with its lifespan. Nothing is opened before the fork.
"""

import logging
import os
import signal
import tempfile
import warnings
from contextlib import ExitStack
from functools import partial
from queue import Empty
from types import FrameType
from typing import Any
from uuid import UUID

from anyio.from_thread import BlockingPortal, start_blocking_portal
from billiard import current_process
from celery import bootsteps, shared_task, signals
from celery.exceptions import SecurityWarning
from celery.worker import WorkController, state
from kombu.transport import redis
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from app.platform.base import heartbeat
from app.platform.base.components import AppFactory
from app.platform.jobs import capacity, pools
from app.platform.jobs.celery_app import celery_app
from app.platform.jobs.names import QUEUE, TASK
from app.platform.jobs.runner import Runner
from app.platform.observability import logs
from app.platform.settings import PlatformSettings

# Tells children to take no more jobs and to end the running one in time.
STOP = signal.SIGUSR2
DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

logger = logging.getLogger(__name__)


class QoS(redis.QoS):
    """Has room for the next message, also when Redis can't be told that this one is done.

    Kombu keeps the room for it until the connection breaks; with no room left nothing is asked of
    Redis, and no connection breaks. A message that Redis delivers again the ledger turns away.
    """

    def ack(self, delivery_tag: str) -> None:
        self._quick_ack(delivery_tag)
        super().ack(delivery_tag)  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self._quick_ack(delivery_tag)
        super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]


class Channel(redis.Channel):
    """Drops what is no message. It would end the worker, and the next one too."""

    QoS = QoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, LookupError, TypeError, AttributeError):
            logger.warning("the queue had something that is no message")
            raise Empty from None

    def close(self) -> None:
        # What was not taken yet goes back to the queue, unless Redis is gone: to try so would end
        # the worker. The ledger has every job.
        self.do_restore = bool(self.connection and self.connection.client)
        super().close()  # type: ignore[no-untyped-call]


class Child:
    """A process that runs jobs."""

    create_app: AppFactory
    settings: PlatformSettings
    portal: BlockingPortal
    runner: Runner
    stack: ExitStack

    def start(self, **_: Any) -> None:
        """Open the service. A child that can't is replaced by the main process."""
        try:
            os.environ["WORKER_SLOT"] = str(current_process().index)
            settings = pools.with_pool_size(self.settings, capacity.CONNECTIONS_PER_CHILD)
            app = self.create_app(settings)
            self.runner = Runner(app, settings)
            self.stack = ExitStack()
            self.portal = self.stack.enter_context(start_blocking_portal())
            lifespan = app.router.lifespan_context(app)
            self.stack.enter_context(self.portal.wrap_async_context_manager(lifespan))
        except BaseException:
            logger.exception("the worker's child can't start")
            os._exit(1)
        signal.signal(STOP, self.drain)

    def drain(self, _signal: int, _frame: FrameType | None) -> None:
        self.portal.start_task_soon(self.runner.stop)

    def stop(self, **_: Any) -> None:
        self.stack.close()


child = Child()
# At import, so that a child that is not forked (macOS) has them too.
signals.worker_process_init.connect(child.start)
signals.worker_process_shutdown.connect(child.stop)


@shared_task(name=TASK)  # type: ignore[untyped-decorator]
def run_job(job_id: str) -> None:
    """Run a job, if the ledger says that it is due."""
    child.portal.call(child.runner.run, UUID(job_id))


class Heartbeat(bootsteps.StartStopStep):  # type: ignore[misc]
    """Says that the loop of the main process still turns."""

    requires = ("celery.worker.components:Timer",)

    def start(self, worker: WorkController) -> None:
        heartbeat.touch("worker")
        worker.timer.call_repeatedly(heartbeat.INTERVAL, heartbeat.touch, ("worker",))


def run(settings: PlatformSettings, create_app: AppFactory) -> int:
    """Run jobs until SIGTERM or SIGINT; return the exit code."""
    logs.configure(settings)
    child.settings, child.create_app = settings, create_app  # children inherit them by the fork
    # Celery warns of root because of pickled messages; ours hold an id, as JSON.
    warnings.simplefilter("ignore", SecurityWarning)
    if settings.worker_metrics_port:
        # Where the children write their numbers.
        os.environ[DIRECTORY] = tempfile.mkdtemp(prefix="worker-metrics-")
    celery = celery_app(settings.redis_url.get_secret_value(), settings.redis_timeout)
    redis.Transport.Channel = Channel
    celery.steps["worker"].add(Heartbeat)
    worker = celery.Worker(
        pool="prefork",
        concurrency=capacity.concurrency(settings),
        queues=[QUEUE],
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    signals.worker_ready.connect(partial(_ready, worker, settings), weak=False)
    worker.start()
    return worker.exitcode or 0


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _keep_logging(**_: Any) -> None:
    """Celery sets up its own logging unless somebody listens to its signal."""
    for name in ("celery.worker.strategy", "celery.app.trace"):
        # Two lines for each job, which say less than the runner's one.
        logging.getLogger(name).setLevel(logging.WARNING)


def _ready(worker: WorkController, settings: PlatformSettings, **_: Any) -> None:
    """Stop on signals our way, since Celery's waits forever; serve metrics after the fork."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        state.should_stop = os.EX_OK
        for pid in worker.pool.info["processes"]:
            os.kill(pid, STOP)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if settings.worker_metrics_port:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, os.environ[DIRECTORY])  # type: ignore[no-untyped-call]
        start_http_server(settings.worker_metrics_port, registry=registry)
