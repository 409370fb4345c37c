"""Celery as the carrier of job ids: how they are published, and the worker that gets them.

Celery carries and scales, and no more: retries, time limits, results and schedules are the
ledger's. Whoever wants Celery itself, for a chord or a group of its own, takes ``celery_app``.

Celery is imported when the first job is published: it would add half a second to every start.
"""

import asyncio
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING
from uuid import UUID

from fastapi import FastAPI
from redis.asyncio import Redis

from app.platform.base import about
from app.platform.base.components import AppFactory
from app.platform.settings import PlatformSettings

if TYPE_CHECKING:
    from celery import Celery

QUEUE = f"{about.NAME}.jobs"
TASK = "app.jobs.run"
WORKER_MODULE = "app.platform.jobs.celery_worker"


class Transport:
    """Publishes job ids from an event loop."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._redis: Redis = app.state.redis
        self._settings = settings

    async def publish(self, ids: Sequence[UUID]) -> None:
        """Hand over jobs, each to one worker that is free; raise when Redis does not answer."""
        await asyncio.to_thread(_publish, self._settings, ids)

    async def depth(self) -> int:
        """Return how many jobs wait for a worker."""
        return int(await self._redis.llen(QUEUE))


def _publish(settings: PlatformSettings, ids: Sequence[UUID]) -> None:
    celery = celery_app(settings.redis_url.get_secret_value(), settings.redis_timeout)
    with celery.producer_or_acquire() as producer:
        for job_id in ids:
            celery.send_task(TASK, args=[str(job_id)], producer=producer, retry=False)


@cache
def celery_app(redis_url: str, timeout: float) -> "Celery":
    """Return the Celery application of this process. ``timeout`` of Redis, in seconds."""
    from celery import Celery

    celery = Celery(about.NAME, set_as_current=False)
    celery.conf.update(
        broker_url=redis_url.replace("unix://", "redis+socket://", 1),
        broker_transport_options={
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "max_retries": 0,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A Redis that is full, or a replica for now, ends no worker.
        broker_channel_error_retry=True,
        include=[WORKER_MODULE],
        task_default_queue=QUEUE,
        task_ignore_result=True,
        # The ledger's lease is the guarantee, and a second delivery would only be turned away.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return celery


def run_worker(settings: PlatformSettings, create_app: AppFactory) -> int:
    """Run jobs until SIGTERM; return the exit code."""
    from app.platform.jobs import celery_worker

    return celery_worker.run(settings, create_app)
