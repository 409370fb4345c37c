"""Where kombu would end the worker, or leave it idle, and ours goes on."""

import asyncio
from uuid import uuid4

import pytest
from kombu.connection import Connection
from kombu.transport import redis

from app.platform.jobs.celery_app import celery_app
from app.platform.jobs.celery_worker import Channel
from app.platform.jobs.names import TASK
from app.settings import Settings
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import Service
from tests.system.jobs.conftest import Start
from tests.system.jobs.link import Link


@pytest.mark.parametrize(("gone", "left"), [(True, 0), (False, 1)])
def test_a_message_goes_back_unless_redis_is_gone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, gone: bool, left: int
) -> None:
    monkeypatch.setattr(redis.Transport, "Channel", Channel)
    url = settings.redis_url.get_secret_value()
    with Connection(url) as connection:  # type: ignore[no-untyped-call]
        channel, name = connection.channel(), f"tests.gone.{gone}"
        channel.queue_declare(name)
        connection.Producer(channel).publish("work", routing_key=name)
        assert channel.basic_get(name)
        if gone:  # so does kombu on the way out
            monkeypatch.setattr(channel.connection, "client", None)
        channel.close()
        monkeypatch.undo()
        assert connection.channel().queue_declare(name).message_count == left
        connection.channel().queue_delete(name)


@pytest.mark.parametrize(("task", "lost"), [(TASK, "ack"), ("of.somebody.else", "reject")])
async def test_a_worker_whose_answer_to_redis_is_lost_goes_on(
    links: dict[str, Link], service: Service, start: Start, task: str, lost: str
) -> None:
    link, settings = links["REDIS_URL"], service.settings
    worker = start("worker", REDIS_URL=link.url, WORKER_CONCURRENCY="1")
    link.loses = b"ZREM"  # how kombu acks and rejects
    celery = celery_app(settings.redis_url.get_secret_value(), settings.redis_timeout)
    celery.send_task(task, args=[str(uuid4())])

    def is_lost() -> bool:
        return any(f"Couldn't {lost}" in line["event"] for line in worker.lines())

    async with asyncio.timeout(30):
        while not is_lost():  # noqa: ASYNC110 (nobody would tell)
            await asyncio.sleep(0.05)
    link.loses = b""
    job = await service.enqueue(samples.note, text="next")
    await service.becomes(job.id, "succeeded")
