"""How Gunicorn serves this service. Any setting can be changed by GUNICORN_CMD_ARGS, too.

https://gunicorn.org/reference/settings/
"""

import asyncio
import itertools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from app.platform.base.cpus import available_cpus
from app.platform.observability import logs
from app.platform.server.checks import refuse_too_many_connections
from app.settings import get_settings

settings = get_settings()
logs.configure(settings)

wsgi_app = "app.main:create_app()"
worker_class = "app.platform.server.gunicorn_worker.Worker"
logger_class = "app.platform.server.gunicorn_worker.GunicornLogger"
loglevel = settings.log_level.lower()
accesslog = None  # middleware.py writes a line for each request

# Where replicas are what is scaled: one or two. On one machine: one per CPU.
workers = settings.web_concurrency or available_cpus()
bind = [f"0.0.0.0:{settings.port}"]
if settings.metrics_port:
    bind.append(f"0.0.0.0:{settings.metrics_port}")
forwarded_allow_ips = ",".join(settings.trusted_proxies)
backlog = 2048
# Longer than the idle time-out of the load balancer in front (60 s with most), or it may send a
# request into a connection that is just being closed.
keepalive = 75

timeout = 60  # seconds without a sign of life, until a worker is killed and replaced
graceful_timeout = 30  # seconds to drain, end requests and close pools, until a kill
# Against leaks that nobody found yet; the jitter keeps workers from leaving together.
max_requests = 100_000
max_requests_jitter = 10_000

# One import for all workers, and memory that they share. Nothing is opened before the fork:
# engines, clients and threads are made in the lifespan. Changed code needs a restart, not SIGHUP.
preload_app = True
control_socket_disable = True
_shared_memory = Path("/dev/shm")  # noqa: S108 (memory: on a disk, signs of life could get stuck)
worker_tmp_dir = str(_shared_memory) if os.access(_shared_memory, os.W_OK) else None

# Where workers keep their metrics, so that any of them can answer for all.
_metrics = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
if _metrics is None:
    _metrics = tempfile.mkdtemp(prefix="metrics-", dir=worker_tmp_dir)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics


def on_starting(server: Any) -> None:
    """Refuse more connections than Postgres allows; forget the metrics of the last run."""
    asyncio.run(refuse_too_many_connections(settings, server.cfg.workers))
    Path(_metrics).mkdir(parents=True, exist_ok=True)
    for file in Path(_metrics).glob("*.db"):
        file.unlink()


def pre_fork(server: Any, worker: Any) -> None:
    """Give a new worker the number of one that is gone: it goes on with its metrics."""
    taken = {other.slot for other in server.WORKERS.values()}
    worker.slot = next(number for number in itertools.count() if number not in taken)


def post_fork(server: Any, worker: Any) -> None:
    """Tell the worker its number."""
    os.environ["WORKER_SLOT"] = str(worker.slot)


def child_exit(server: Any, worker: Any) -> None:
    """Take a worker that is gone out of the gauges."""
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 (reads _metrics)

    mark_process_dead(worker.slot)


def on_exit(server: Any) -> None:
    """Leave nothing behind."""
    shutil.rmtree(_metrics, ignore_errors=True)
