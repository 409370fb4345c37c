"""Transport over Celery: messages that wake a child of a worker, and the worker.

Celery's own retries, time limits, results and schedules are not used; the job store provides them.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from fastapi import FastAPI
from redis.asyncio import Redis

from app.platform.base.components import AppFactory
from app.platform.jobs.celery_app import celery_app
from app.platform.jobs.names import QUEUE, TASK
from app.platform.settings import PlatformSettings


class Transport:
    """Publishes job ids from an event loop. ``full``: the queue was, at the last look."""

    full = False

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._redis: Redis = app.state.redis
        self._settings = settings
        # Its own: the threads of jobs and routes may all be busy.
        self._thread = ThreadPoolExecutor(1, "publisher")

    async def publish(self, job_id: UUID) -> None:
        """Wake one child of a worker; raises if Redis is unavailable."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, _publish, self._settings, job_id)

    async def depth(self) -> int:
        """Number of messages that wait for a worker."""
        return int(await self._redis.llen(QUEUE))


def _publish(settings: PlatformSettings, job_id: UUID) -> None:
    celery = celery_app(settings.redis_url.get_secret_value(), settings.redis_timeout)
    with celery.producer_or_acquire() as producer:
        celery.send_task(TASK, args=[str(job_id)], producer=producer, retry=False)


def run_worker(settings: PlatformSettings, create_app: AppFactory) -> int:
    """Run a worker until SIGTERM; return the exit code."""
    from app.platform.jobs import celery_worker  # noqa: PLC0415 (0.3 s at every start)

    return celery_worker.run(settings, create_app)
