"""TaskIQ consumer: woken by TaskIQ's messages, one at a time."""

import logging
from typing import Any

from redis.asyncio import Redis
from taskiq.acks import AcknowledgeType
from taskiq.receiver import Receiver

from app.platform.jobs.names import QUEUE, TASK
from app.platform.jobs.taskiq_broker import create_broker
from app.platform.jobs.worker import Worker
from app.platform.settings import PlatformSettings

# Its two lines per job only repeat the runner's.
logging.getLogger("taskiq.receiver.receiver").setLevel(logging.WARNING)


async def consume(settings: PlatformSettings, worker: Worker) -> None:
    """Receive messages until the worker stops; raises if Redis is unavailable."""

    async def run_job(*_message: Any, **_: Any) -> None:
        await worker.consumer.drain()

    broker = create_broker(settings)
    broker.is_worker_process = True
    broker.register_task(run_job, task_name=TASK)
    receiver = Receiver(
        broker,
        validate_params=False,
        max_async_tasks=1,  # while this worker is full, messages are for others
        run_startup=True,
        # Before the jobs are claimed: those that are committed later send a message of their own.
        ack_type=AcknowledgeType.WHEN_RECEIVED,
    )
    try:
        await receiver.listen(worker.stopping)
    except ExceptionGroup as errors:
        error = errors.exceptions[0]
        if isinstance(error, KeyError):
            # TaskIQ would fail on this malformed message forever. The store still has every job.
            async with Redis(connection_pool=broker.connection_pool) as redis:
                await redis.delete(QUEUE)
        raise error from None
    finally:
        await broker.shutdown()
