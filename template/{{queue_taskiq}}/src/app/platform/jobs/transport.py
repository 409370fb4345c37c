"""TaskIQ as the carrier of job ids, on a Redis Stream: how they are published, and the worker.

TaskIQ carries, and no more: retries, time limits, results and schedules are the ledger's.
"""

from collections.abc import Sequence
from uuid import UUID, uuid4

from fastapi import FastAPI
from redis.asyncio import Redis
from taskiq import TaskiqMessage

from app.platform.base.components import AppFactory
from app.platform.jobs.names import QUEUE, TASK
from app.platform.jobs.taskiq_broker import create_broker
from app.platform.settings import PlatformSettings


class Transport:
    """Publishes job ids from an event loop."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._redis: Redis = app.state.redis
        self._broker = create_broker(settings)
        self._broker.connection_pool = self._redis.connection_pool

    async def publish(self, ids: Sequence[UUID]) -> None:
        """Hand over jobs, each to one worker that is free; raise when Redis does not answer."""
        for job_id in ids:
            message = TaskiqMessage(
                task_id=uuid4().hex, task_name=TASK, labels={}, args=[str(job_id)], kwargs={}
            )
            await self._broker.kick(self._broker.formatter.dumps(message))

    async def depth(self) -> int:
        """Return how many jobs wait for a worker, or are worked on."""
        return int(await self._redis.xlen(QUEUE))


def run_worker(settings: PlatformSettings, create_app: AppFactory) -> int:
    """Run jobs until SIGTERM; return the exit code."""
    from app.platform.jobs import taskiq_worker, worker  # noqa: PLC0415 (for workers alone)

    return worker.run(settings, create_app, taskiq_worker.consume)
