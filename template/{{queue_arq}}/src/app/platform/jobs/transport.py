"""Transport over ARQ: messages that wake a worker, and the worker that they wake.

ARQ's own retries, timeouts, results and schedules are not used; the job store provides them.
"""

from uuid import UUID, uuid4

import orjson
from arq.constants import job_key_prefix
from arq.jobs import serialize_job
from arq.utils import timestamp_ms
from fastapi import FastAPI
from redis.asyncio import Redis

from app.platform.base.components import AppFactory
from app.platform.jobs.arq_wakeups import MAX_WAKEUPS, WAKEUPS
from app.platform.jobs.names import QUEUE, TASK
from app.platform.settings import PlatformSettings

DAY = 86_400_000  # milliseconds, ARQ's unit
MESSAGE_TTL = DAY  # the scheduler sends another one long before
MAX_CLOCK_SKEW = DAY


class Transport:
    """Publishes job ids from an event loop. ``full``: the queue was, at the last look."""

    full = False

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._redis: Redis = app.state.redis

    async def publish(self, job_id: UUID) -> None:
        """Wake one worker; raises if Redis is unavailable."""
        # ArqRedis.enqueue_job() writes the same, but asks first, in two more round trips, whether
        # the message's id is taken.
        message, now = uuid4().hex, timestamp_ms()
        # ARQ's default is pickle, which would execute code from Redis.
        content = serialize_job(TASK, (str(job_id),), {}, None, now, serializer=orjson.dumps)
        async with self._redis.pipeline() as pipe:
            pipe.psetex(job_key_prefix + message, MESSAGE_TTL, content)
            # A worker compares the score with its own clock, which may be behind.
            pipe.zadd(QUEUE, {message: now - MAX_CLOCK_SKEW})
            pipe.lpush(WAKEUPS, "")
            pipe.ltrim(WAKEUPS, 0, MAX_WAKEUPS - 1)
            await pipe.execute()

    async def depth(self) -> int:
        """Number of messages that wait for a worker."""
        return int(await self._redis.zcard(QUEUE))


def run_worker(settings: PlatformSettings, create_app: AppFactory) -> int:
    """Run a worker until SIGTERM; return the exit code."""
    from app.platform.jobs import arq_worker, worker  # noqa: PLC0415 (for workers alone)

    return worker.run(settings, create_app, arq_worker.consume)
