"""Gunicorn's configuration. GUNICORN_CMD_ARGS overrides any setting.

https://gunicorn.org/reference/settings/
"""

import asyncio
import gc
import itertools
import os
import shutil
from pathlib import Path
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from app.platform.base.cpus import available_cpus
from app.platform.data.preload import import_before_fork
from app.platform.observability import logs
from app.platform.server.checks import refuse_too_many_connections
from app.platform.server.gunicorn_worker import metrics_folder, take_over_signals
from app.settings import get_settings

settings = get_settings()
logs.configure(settings)

wsgi_app = "app.main:create_app()"
worker_class = "app.platform.server.gunicorn_worker.Worker"
logger_class = "app.platform.server.gunicorn_worker.GunicornLogger"
loglevel = settings.log_level.lower()
accesslog = None  # the service has its own access log

# One per CPU on a dedicated machine; one or two where the platform scales replicas.
workers = settings.web_concurrency or available_cpus()
bind = [f"0.0.0.0:{settings.port}"]
if settings.metrics_port:
    bind.append(f"0.0.0.0:{settings.metrics_port}")
forwarded_allow_ips = ",".join(settings.trusted_proxies)
backlog = 2048
# Longer than the load balancer's idle time-out (60 s with most), or it may send a request on a
# connection that is being closed.
keepalive = 75

timeout = 60  # seconds without a heartbeat, until a worker is killed and replaced
graceful_timeout = 30  # seconds to drain, finish requests and close pools before a worker is killed
# Against undiscovered memory leaks; the jitter keeps workers from restarting together.
max_requests = 100_000
max_requests_jitter = 10_000

# Import once and share memory between workers. Nothing is opened before the fork: engines, clients
# and threads are created in the lifespan. New code needs a restart; SIGHUP does not reload it.
preload_app = True
control_socket_disable = True
_shared_memory = Path("/dev/shm")  # noqa: S108 (memory: on a disk, heartbeats could block)
worker_tmp_dir = str(_shared_memory) if os.access(_shared_memory, os.W_OK) else None

# Workers write their metrics to a new folder, in the one that the variable names if it is set, so
# that each of them can report the sum.
_metrics_folder = metrics_folder(os.environ.get("PROMETHEUS_MULTIPROC_DIR") or worker_tmp_dir)


def on_starting(server: Any) -> None:
    """Check the connection budget; import what the workers need."""
    asyncio.run(refuse_too_many_connections(settings, server.cfg.workers))
    import_before_fork(settings)
    gc.enable()  # `app serve` disabled it


def pre_fork(server: Any, worker: Any) -> None:
    """Give a new worker a free slot; it continues the metrics of the last worker in that slot."""
    taken = {other.slot for other in server.WORKERS.values()}
    worker.slot = next(number for number in itertools.count() if number not in taken)


def post_fork(server: Any, worker: Any) -> None:
    """Pass the slot and the folder of metrics to the worker, which now handles its own signals."""
    take_over_signals(server)
    os.environ["WORKER_SLOT"] = str(worker.slot)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics_folder


def child_exit(server: Any, worker: Any) -> None:
    """Remove an exited worker from the gauges."""
    mark_process_dead(worker.slot, _metrics_folder)  # type: ignore[no-untyped-call]


def on_exit(server: Any) -> None:
    """Delete the folder of metrics."""
    shutil.rmtree(_metrics_folder, ignore_errors=True)
