"""Failures in which kombu alone would stop the worker or leave it idle, and process start."""

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest
from kombu.connection import Connection
from kombu.transport import redis

from app.platform.base import heartbeat
from app.platform.jobs.celery_app import celery_app
from app.platform.jobs.celery_worker import Channel
from app.platform.jobs.names import TASK
from app.settings import Settings
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import Service
from tests.system.jobs import importing
from tests.system.jobs.conftest import Start
from tests.system.jobs.proxy import Proxy


@pytest.mark.parametrize(("unavailable", "requeued"), [(True, 0), (False, 1)])
def test_unprocessed_messages_are_requeued_unless_redis_is_unavailable(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, unavailable: bool, requeued: int
) -> None:
    monkeypatch.setattr(redis.Transport, "Channel", Channel)
    url = settings.redis_url.get_secret_value()
    with Connection(url) as connection:  # type: ignore[no-untyped-call]
        channel, name = connection.channel(), f"tests.unavailable.{unavailable}"
        channel.queue_declare(name)
        connection.Producer(channel).publish("work", routing_key=name)
        assert channel.basic_get(name)
        if unavailable:  # as kombu does when it cannot connect
            monkeypatch.setattr(channel.connection, "client", None)
        channel.close()
        monkeypatch.undo()
        assert connection.channel().queue_declare(name).message_count == requeued
        connection.channel().queue_delete(name)


@pytest.mark.parametrize(("task", "lost"), [(TASK, "ack"), ("unknown.task", "reject")])
async def test_a_worker_continues_after_losing_an_acknowledgement(
    proxies: dict[str, Proxy], service: Service, start: Start, task: str, lost: str
) -> None:
    proxy, settings = proxies["REDIS_URL"], service.settings
    worker = start("worker", REDIS_URL=proxy.url, WORKER_CONCURRENCY="1")
    proxy.drop = b"ZREM"  # how kombu acknowledges and rejects
    celery = celery_app(settings.redis_url.get_secret_value(), settings.redis_timeout)
    celery.send_task(task, args=[str(uuid4())])

    def failed_to_answer() -> bool:
        return any(f"Couldn't {lost}" in line["event"] for line in worker.log_lines())

    async with asyncio.timeout(30):
        while not failed_to_answer():  # noqa: ASYNC110 (there is no event to wait for)
            await asyncio.sleep(0.05)
    proxy.drop = b""
    job = await service.enqueue(samples.note, text="next")
    await service.wait_for_status(job.id, "succeeded")


async def test_children_are_forked_where_spawning_is_the_default(
    service: Service, start: Start
) -> None:
    start("worker", module="tests.system.jobs.spawning")
    job = await service.enqueue(samples.note, text="forked")
    await service.wait_for_status(job.id, "succeeded")


async def test_children_share_what_they_import(service: Service, start: Start) -> None:
    start("worker", module="tests.system.jobs.importing")
    job = await service.enqueue(importing.imported)
    assert (await service.wait_for_status(job.id, "succeeded")).result == []


async def test_a_worker_whose_children_cannot_start_is_unhealthy(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(heartbeat, "STALE_AFTER", 2.0)
    worker = start("worker", module="tests.system.jobs.failing")

    def failures() -> int:
        events = [line["event"] for line in worker.log_lines()]
        return events.count("worker child failed to start")

    async with asyncio.timeout(60):
        while failures() < 2 or heartbeat.is_alive("worker"):  # noqa: ASYNC110 (no event to wait for)
            await asyncio.sleep(0.05)
    assert worker.is_running()
