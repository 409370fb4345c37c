"""Where kombu would end the worker, and ours does not."""

import pytest
from kombu.connection import Connection
from kombu.transport import redis

from app.jobs.celery_worker import Channel
from app.settings import Settings


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
