"""Transport over TaskIQ on a Redis Stream: messages that wake a worker, and that worker.

TaskIQ's own retries, timeouts, results and schedules are not used; the job store provides them.
"""

from uuid import UUID, uuid4

from fastapi import FastAPI
from redis.asyncio import Redis
from taskiq import TaskiqMessage

from app.platform.base.components import AppFactory
from app.platform.jobs.names import QUEUE, TASK
from app.platform.jobs.taskiq_broker import create_broker
from app.platform.settings import PlatformSettings


class Transport:
    """Publishes job ids from an event loop. ``full``: the queue was, at the last look."""

    full = False

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._redis: Redis = app.state.redis
        self._broker = create_broker(settings)
        self._broker.connection_pool = self._redis.connection_pool

    async def publish(self, job_id: UUID) -> None:
        """Wake one worker; raises if Redis is unavailable."""
        message = TaskiqMessage(
            task_id=uuid4().hex, task_name=TASK, labels={}, args=[str(job_id)], kwargs={}
        )
        await self._broker.kick(self._broker.formatter.dumps(message))

    async def depth(self) -> int:
        """Number of messages that wait for a worker."""
        return int(await self._redis.xlen(QUEUE))


def run_worker(settings: PlatformSettings, create_app: AppFactory) -> int:
    """Run a worker until SIGTERM; return the exit code."""
    from app.platform.jobs import taskiq_worker, worker  # noqa: PLC0415 (for workers alone)

    return worker.run(settings, create_app, taskiq_worker.consume)
