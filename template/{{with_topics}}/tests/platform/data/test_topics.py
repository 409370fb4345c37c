"""Topics: every listener receives each event once, in order, in every process and after outages."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import uuid4

import pytest

from app.platform.base.errors import Unavailable
from app.platform.data import topics
from app.platform.data.redis import create_client
from app.platform.data.topics import GAP, PREFIX, Event, Id, Listener, Topics
from app.settings import Settings


@pytest.fixture
def topic() -> str:
    return f"test:{uuid4()}"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "MAX_BACKOFF", 0.02)


@asynccontextmanager
async def process(settings: Settings) -> AsyncIterator[Topics]:
    """The topics of one more process."""
    async with create_client(settings) as redis:
        running = Topics(redis, settings)
        async with running.receiving():
            yield running


@pytest.fixture
async def two(settings: Settings) -> AsyncIterator[tuple[Topics, Topics]]:
    async with process(settings) as one, process(settings) as other:
        yield one, other


async def take(listener: Listener, number: int) -> list[str]:
    """The next ``number`` events, as ``name data``."""
    async with asyncio.timeout(10):
        received: list[str] = []
        async for event in listener.events():
            received.append(f"{event.name} {event.data}")
            if len(received) == number:
                break
        return received


async def publish(topics: Topics, topic: str, *numbers: int) -> list[Id]:
    return [await topics.publish(topic, "n", str(number)) for number in numbers]


def names(*numbers: int) -> list[str]:
    return [f"n {number}" for number in numbers]


async def cut(settings: Settings) -> None:
    """Cut the connections on which processes receive events."""
    async with create_client(settings) as redis:
        assert await redis.client_kill_filter(_type="pubsub") >= 1


async def test_every_listener_in_every_process_receives_each_event_in_order(
    two: tuple[Topics, Topics], topic: str
) -> None:
    async with AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(each.listen(topic)) for each in two * 2]
        for number in range(20):
            await publish(two[number % 2], topic, number)
        for listener in listeners:
            assert await take(listener, 20) == names(*range(20))


async def test_a_listener_begins_after_the_event_that_it_has_seen(
    two: tuple[Topics, Topics], topic: str
) -> None:
    one, other = two
    ids = await publish(one, topic, 1, 2, 3)
    async with other.listen(topic, after=ids[0]) as listener:
        await publish(one, topic, 4)
        assert await take(listener, 3) == names(2, 3, 4)
    async with other.listen(topic) as listener:
        await publish(one, topic, 5)
        assert await take(listener, 1) == names(5)


async def test_events_that_arrive_while_a_listener_resumes_come_once(
    two: tuple[Topics, Topics], topic: str
) -> None:
    one, other = two
    (first,) = await publish(one, topic, 0)
    publishing = asyncio.create_task(publish(one, topic, *range(1, 200)))
    for _ in range(5):
        async with other.listen(topic, after=first) as listener:
            received = await take(listener, 20)
        assert received == names(*range(1, 21))
    await publishing


async def test_a_listener_whose_last_event_is_gone_is_told_so(
    settings: Settings, two: tuple[Topics, Topics], topic: str
) -> None:
    one, _ = two
    (first, *_rest) = await publish(one, topic, 1, 2)
    async with create_client(settings) as redis:
        await redis.xtrim(PREFIX + topic, maxlen=1, approximate=False)
        async with one.listen(topic, after=first) as listener:
            assert await take(listener, 2) == [f"{GAP.name} {GAP.data}", *names(2)]
        await redis.delete(PREFIX + topic)
        async with one.listen(topic, after=first) as listener:
            assert await take(listener, 1) == [f"{GAP.name} {GAP.data}"]


async def test_a_topic_keeps_so_many_events_for_so_long(settings: Settings, topic: str) -> None:
    changes = {"topic_history": 10, "topic_retention": 77}
    async with (
        process(settings.model_copy(update=changes)) as topics,
        create_client(settings) as redis,
    ):
        await publish(topics, topic, *range(300))
        assert 10 <= await redis.xlen(PREFIX + topic) < 300  # trimmed by whole blocks
        assert 0 < await redis.ttl(PREFIX + topic) <= 77


async def test_what_a_broken_connection_missed_is_delivered_once(
    settings: Settings, two: tuple[Topics, Topics], topic: str
) -> None:
    one, other = two
    async with other.listen(topic) as listener:
        await publish(one, topic, 1)
        assert await take(listener, 1) == names(1)
        for number in (2, 4, 6):
            await cut(settings)
            await publish(one, topic, number, number + 1)
            assert await take(listener, 2) == names(number, number + 1)


async def test_listeners_that_join_while_the_connection_is_replaced_miss_nothing(
    settings: Settings, two: tuple[Topics, Topics], topic: str
) -> None:
    """Each joins some steps of the event loop later than the one before."""
    async with create_client(settings) as redis:
        for steps in range(40):
            await redis.client_kill_filter(_type="pubsub")
            for _ in range(steps % 10):
                await asyncio.sleep(0)
            async with two[0].listen(topic, kept=False) as listener:
                await two[1].pass_on(topic, "n", str(steps))
                assert await take(listener, 1) == names(steps)


async def test_text_that_is_no_event_does_not_stop_later_ones(
    settings: Settings, two: tuple[Topics, Topics], topic: str
) -> None:
    async with create_client(settings) as redis, two[0].listen(topic) as listener:
        await redis.publish(PREFIX + topic, "no event")
        await publish(two[1], topic, 1)
        assert await take(listener, 1) == names(1)


async def test_a_listener_that_does_not_read_ends_and_resumes_elsewhere(
    settings: Settings, topic: str
) -> None:
    changes = {"topic_buffer": 5}
    async with process(settings.model_copy(update=changes)) as topics:
        async with topics.listen(topic) as slow, topics.listen(topic) as other:
            reading = asyncio.create_task(take(other, 8))
            ids = []
            for number in range(8):
                ids += await publish(topics, topic, number)
                await asyncio.sleep(0)
            assert await reading == names(*range(8))
            assert (slow.ended, other.ended) == ("slow", None)
            assert [event async for event in slow.events()] == []
        async with topics.listen(topic, after=ids[1]) as resumed:
            assert await take(resumed, 6) == names(*range(2, 8))


async def test_a_process_is_subscribed_only_to_topics_with_listeners(
    settings: Settings, two: tuple[Topics, Topics], topic: str
) -> None:
    async def subscribers() -> int:
        ((_, number),) = await redis.pubsub_numsub(PREFIX + topic)
        return int(number)

    async with create_client(settings) as redis:
        for _ in range(3):
            async with two[0].listen(topic), two[0].listen(topic), two[1].listen(topic):
                assert await subscribers() == 2
            while await subscribers():  # noqa: ASYNC110 (of the server)
                await asyncio.sleep(0.01)
        assert two[0]._topics == {}


async def test_topics_that_open_and_close_at_once_stay_complete(
    two: tuple[Topics, Topics], topic: str
) -> None:
    async def come_and_go(number: int) -> None:
        async with two[number % 2].listen(topic) as listener:
            publishing = asyncio.create_task(publish(two[0], topic, number))
            async for event in listener.events():
                if event.data == str(number):
                    break
            await publishing

    async with asyncio.timeout(20):
        await asyncio.gather(*map(come_and_go, range(100)))


async def test_without_redis_a_topic_is_unavailable(settings: Settings, topic: str) -> None:
    changes = {"redis_url": type(settings.redis_url)("redis://127.0.0.1:1")}
    async with process(settings.model_copy(update=changes)) as topics:
        with pytest.raises(Unavailable):
            async with topics.listen(topic):
                pass


@pytest.mark.parametrize("text", ["", "1", "1-", "x-1", "1-1-1", "1" * 21 + "-0", "-1-1", "1-1\n"])
def test_other_text_is_no_id(text: str) -> None:
    assert topics.parse_id(text) is None


def test_an_id_is_written_as_it_is_read() -> None:
    assert topics.parse_id(topics.format_id((1700000000000, 12))) == (1700000000000, 12)
    assert Event((10, 0), "", "") > Event((9, 99), "", "")
