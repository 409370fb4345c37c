"""Cached values: loaded once, invalidated by commits alone, correct without Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from uuid import uuid4

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, SecretStr
from sqlalchemy import text

from app.main import create_app
from app.platform.base import context
from app.platform.base.errors import Unavailable
from app.platform.data import cache_store
from app.platform.data.cache import Cache, Cached, CacheMetrics, warm_at_start
from app.platform.data.database import Database, ReadSession
from app.platform.data.redis import create_client
from app.platform.dev import servers
from app.settings import Settings
from tests.conftest import running_platform


class Price(BaseModel):
    amount: int


class Source:
    """What is cached: a price that counts its loads, and can be made to wait in one."""

    def __init__(self, amount: int | None = 1) -> None:
        self.amount = amount
        self.loads = 0
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def load(self) -> Price | None:
        self.loads += 1
        amount = self.amount
        self.begun.set()
        await self.go.wait()
        return None if amount is None else Price(amount=amount)


def prices(**options: float) -> Cached[Price]:
    """A kind of its own, so that tests share no keys."""
    options = {"ttl": 60, **options}
    return Cached(f"prices.{uuid4().hex}", Price, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def open_cache(settings: Settings) -> AsyncIterator[Cache]:
    """The cache of one process."""
    async with create_client(settings) as redis:
        cache = Cache(redis, CacheMetrics(CollectorRegistry()), settings)
        retries = asyncio.create_task(cache.store.retry_deletes())
        yield cache
        retries.cancel()
        await cache.close()


@pytest.fixture
async def slow_machine(settings: Settings) -> Settings:
    """Settings in which only a Redis that does not answer at all is too slow."""
    return settings.model_copy(update={"cache_timeout": 30, "redis_timeout": 30})


@pytest.fixture
async def cache(slow_machine: Settings) -> AsyncIterator[Cache]:
    async with open_cache(slow_machine) as cache:
        yield cache


@pytest.fixture
async def other(slow_machine: Settings) -> AsyncIterator[Cache]:
    """The cache of another process."""
    async with open_cache(slow_machine) as cache:
        yield cache


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (the conditions are states of the cache and of Redis)
            await asyncio.sleep(0.005)


def count(cache: Cache, kind: Cached[Price], result: str) -> float:
    return cache._metrics.results.labels(kind.name, result)._value.get()


async def test_a_value_is_loaded_once_for_all_callers_of_two_processes(
    cache: Cache, other: Cache
) -> None:
    kind, source = prices(), Source()
    calls = [each.get(kind, 7, source.load) for each in (cache, other) for _ in range(50)]
    assert await asyncio.gather(*calls) == [Price(amount=1)] * 100
    assert await cache.get(kind, 7, source.load) == Price(amount=1)
    assert source.loads == 1
    assert count(cache, kind, "hit") >= 1
    assert count(cache, kind, "load") + count(other, kind, "load") == 1


async def test_keys_kinds_and_versions_are_apart(cache: Cache) -> None:
    name, source = f"prices.{uuid4().hex}", Source()
    first, second = (Cached(name, Price, ttl=60, version=version) for version in (1, 2))
    for kind, key in ((first, 1), (first, 2), (second, 1)):
        await cache.get(kind, key, source.load)
    assert source.loads == 3


async def test_a_load_reads_from_the_primary(cache: Cache) -> None:
    async def load() -> Price:
        return Price(amount=int(context.current().has_written))

    assert await cache.get(prices(), "one", load) == Price(amount=1)


async def test_a_missing_value_is_cached_for_its_own_time_only(cache: Cache) -> None:
    for missing_ttl, loads in ((0, 2), (60, 1)):
        kind, source = prices(missing_ttl=missing_ttl, stale=60), Source(None)
        assert await cache.get(kind, 1, source.load) is None
        assert await cache.get(kind, 1, source.load) is None
        assert source.loads == loads


async def test_an_expired_value_is_loaded_again_before_its_ttl_ends(cache: Cache) -> None:
    kind, source = prices(ttl=0.05), Source()
    await cache.get(kind, 1, source.load)
    source.amount = 2
    await asyncio.sleep(0.05)  # the time itself is what is tested
    assert await cache.get(kind, 1, source.load) == Price(amount=2)


async def test_expiries_are_spread_and_never_beyond_the_ttl() -> None:
    expiries = [prices(ttl=100).expiry("{}") for _ in range(200)]
    assert max(expiries) <= 100_000
    assert min(expiries) >= 90_000
    assert max(expiries) - min(expiries) > 5_000


async def test_a_stale_value_is_returned_while_one_caller_loads(cache: Cache, other: Cache) -> None:
    kind, source = prices(ttl=0.01, stale=60), Source()
    await cache.get(kind, 1, source.load)
    await asyncio.sleep(0.01)  # its ttl
    source.amount = 2
    source.go.clear()
    for each in (cache, other, cache, other):
        assert await each.get(kind, 1, source.load) == Price(amount=1)
    await until(lambda: source.loads == 2)
    source.go.set()
    await until(lambda: not cache._tasks and not other._tasks)
    assert source.loads == 2
    assert await other.get(kind, 1, source.load) == Price(amount=2)


async def test_a_load_that_began_before_an_invalidation_is_not_stored(
    cache: Cache, other: Cache
) -> None:
    """Whichever process invalidates, with copies in memory, and with a refresh in progress."""
    for invalidator in (cache, other):
        kind, source = prices(local_ttl=60), Source()
        source.go.clear()
        early = asyncio.create_task(cache.get(kind, 1, source.load))
        await source.begun.wait()
        source.amount = 2  # the commit
        await invalidator.invalidate(kind, 1)
        source.go.set()
        assert await early == Price(amount=1)
        for each in (cache, other):
            assert await each.get(kind, 1, source.load) == Price(amount=2)


async def test_a_caller_after_an_invalidation_does_not_join_an_earlier_load(cache: Cache) -> None:
    kind, source = prices(), Source()
    source.go.clear()
    early = asyncio.create_task(cache.get(kind, 1, source.load))
    await source.begun.wait()
    source.amount = 2
    await cache.invalidate(kind, 1)
    late = asyncio.create_task(cache.get(kind, 1, source.load))
    await until(lambda: source.loads == 2)
    source.go.set()
    assert (await early, await late) == (Price(amount=1), Price(amount=2))


async def test_a_waiter_loads_once_the_lock_of_a_dead_process_has_expired(
    cache: Cache, other: Cache
) -> None:
    kind, source = prices(load_timeout=0.1), Source()
    other.store._timeout = 0.1
    assert await other.store.look_up((kind.prefix, "1"), "dead", 0.1, 0) == (None, 0, True)
    started = time.monotonic()
    assert await cache.get(kind, 1, source.load) == Price(amount=1)
    assert time.monotonic() - started >= 0.1
    assert source.loads == 1


async def test_a_waiter_loads_itself_when_others_take_the_lock_again_and_again(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def held(*_: object) -> tuple[None, int, bool]:
        return None, 0, False

    kind, source = prices(load_timeout=0.1), Source()
    cache.store._timeout = 0.1
    monkeypatch.setattr(cache.store, "look_up", held)
    async with asyncio.timeout(30):
        assert await cache.get(kind, 1, source.load) == Price(amount=1)


async def test_a_failed_load_releases_its_lock_and_caches_nothing(
    cache: Cache, other: Cache
) -> None:
    kind, source = prices(), Source()

    async def fail() -> Price:
        raise LookupError("no price")

    with pytest.raises(LookupError):
        await cache.get(kind, 1, fail)
    assert await other.get(kind, 1, source.load) == Price(amount=1)


async def test_a_cancelled_caller_does_not_cancel_the_load_of_the_others(cache: Cache) -> None:
    kind, source = prices(), Source()
    source.go.clear()
    first, second = (asyncio.create_task(cache.get(kind, 1, source.load)) for _ in range(2))
    await source.begun.wait()
    first.cancel()
    source.go.set()
    assert await second == Price(amount=1)
    assert source.loads == 1


async def test_a_load_that_takes_too_long_is_unavailable(cache: Cache) -> None:
    kind, source = prices(load_timeout=0.01), Source()
    source.go.clear()
    with pytest.raises(Unavailable):
        await cache.get(kind, 1, source.load)


async def test_a_copy_in_memory_outlives_an_invalidation_elsewhere_by_its_own_ttl_at_most(
    cache: Cache, other: Cache
) -> None:
    kind, source = prices(local_ttl=0.2), Source()
    for each in (cache, other):
        await each.get(kind, 1, source.load)
    source.amount = 2
    await cache.invalidate(kind, 1)
    assert await cache.get(kind, 1, source.load) == Price(amount=2), "here at once"
    await asyncio.sleep(0.2)  # the time itself is what is tested
    assert await other.get(kind, 1, source.load) == Price(amount=2)


async def test_memory_holds_no_value_for_longer_than_it_is_fresh(cache: Cache) -> None:
    kind = prices(ttl=60, missing_ttl=5, stale=60, local_ttl=30)
    assert await cache.get(kind, 1, Source(None).load) is None
    [(ends, _)] = cache._local.values()
    assert ends - time.monotonic() <= 5


async def test_memory_holds_the_values_used_last(slow_machine: Settings) -> None:
    few = slow_machine.model_copy(update={"cache_local_entries": 2})
    kind, source = prices(local_ttl=60), Source()
    async with open_cache(few) as cache:
        for key in (1, 2, 1, 3):
            await cache.get(kind, key, source.load)
        assert [key for _, key in cache._local] == ["1", "3"]
        assert count(cache, kind, "local") == 1


async def test_a_value_of_another_type_is_loaded_again(cache: Cache) -> None:
    name, source = f"prices.{uuid4().hex}", Source()
    await cache.get(Cached(name, str, ttl=60), 1, lambda: asyncio.sleep(0, "text"))
    kind = Cached(name, Price, ttl=60)
    assert await cache.get(kind, 1, source.load) == Price(amount=1)


async def test_only_a_commit_invalidates(app: FastAPI, cache: Cache) -> None:
    database: Database = app.state.db
    kind, source = prices(), Source()
    await cache.get(kind, 1, source.load)
    source.amount = 2
    with suppress(LookupError):
        async with database.transaction() as session:
            cache.invalidate_on_commit(session, kind, 1)
            raise LookupError
    assert await cache.get(kind, 1, source.load) == Price(amount=1)
    async with database.transaction() as session:
        cache.invalidate_on_commit(session, kind, 1)
        assert await cache.get(kind, 1, source.load) == Price(amount=1), "not committed yet"
    assert await cache.get(kind, 1, source.load) == Price(amount=2)


async def test_what_a_transaction_has_not_committed_is_never_cached(
    module_settings: Settings, cache: Cache
) -> None:
    """Neither by a load in the transaction nor by one that it starts before its first statement."""
    kind, seen = prices(), text("SELECT current_setting('app.amount', true)")
    async with running_platform(module_settings) as app:
        database: Database = app.state.db
        reader = ReadSession(database)

        async def load() -> Price:
            row = await reader.first(seen)  # type: ignore[arg-type]
            return Price(amount=int(row[0] or 0) if row else 0)

        async with database.transaction() as session:
            await session.execute(text("SELECT set_config('app.amount', '5', true)"))
            assert await cache.get(kind, 1, load) == Price(amount=5), "it sees its own change"
            await session.rollback()
        assert await cache.get(kind, 1, load) == Price(amount=0)


async def test_a_load_sees_nothing_of_the_transaction_that_its_request_begins_meanwhile(
    module_settings: Settings, cache: Cache
) -> None:
    kind, source, seen = prices(), Source(), text("SELECT current_setting('app.amount', true)")
    async with running_platform(module_settings) as app:
        database: Database = app.state.db
        reader = ReadSession(database)

        async def load() -> Price:
            await source.load()
            row = await reader.first(seen)  # type: ignore[arg-type]
            return Price(amount=int(row[0] or 0) if row else 0)

        source.go.clear()
        async with database.transaction() as session:
            value = asyncio.create_task(cache.get(kind, 1, load))
            await source.begun.wait()
            await session.execute(text("SELECT set_config('app.amount', '5', true)"))
            source.go.set()
            assert await value == Price(amount=0)
            await session.rollback()


@pytest.fixture
def own_redis(settings: Settings) -> Settings:
    """Settings with a Redis that does not answer yet."""
    return settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})


async def test_without_redis_values_are_loaded_within_the_limit_of_loads(
    own_redis: Settings,
) -> None:
    running = most = 0

    async def load() -> Price:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return Price(amount=1)

    limited = own_redis.model_copy(update={"cache_max_loads": 3})
    async with open_cache(limited) as cache:
        kind = prices()
        values = await asyncio.gather(*(cache.get(kind, n, load) for n in range(40)))
        assert values == [Price(amount=1)] * 40
        assert most <= 3
        await cache.invalidate(kind, 1)  # does not raise


async def test_an_invalidation_during_an_outage_takes_effect_after_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_store, "RETRY_INTERVAL", 0.05)
    with servers.redis() as url:
        own = settings.model_copy(update={"redis_url": SecretStr(url), "cache_timeout": 30})
        kind, source = prices(), Source()
        async with open_cache(own) as cache, create_client(own) as admin:
            await cache.get(kind, 1, source.load)
            await admin.config_set("min-replicas-to-write", 1)  # it refuses to write
            source.amount = 2
            await cache.invalidate(kind, 1)
            assert await cache.get(kind, 1, source.load) == Price(amount=2)
            await admin.config_set("min-replicas-to-write", 0)
            await until(lambda: not cache.store._pending and not cache.store._is_unavailable())
            assert await cache.get(kind, 1, source.load) == Price(amount=2)


async def test_an_invalidation_during_the_retry_of_an_earlier_one_is_not_lost(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_store, "RETRY_INTERVAL", 0.01)
    begun, go, deleted = asyncio.Event(), asyncio.Event(), 0

    async def delete(_: object) -> bool:
        nonlocal deleted
        begun.set()
        await go.wait()
        deleted += 1
        return True

    async with open_cache(settings) as cache:
        monkeypatch.setattr(cache.store, "_is_unavailable", lambda: True)
        monkeypatch.setattr(cache.store, "_delete", delete)
        expired = time.monotonic() + 60
        await cache.store.delete(("prices", "1"), expired)
        await begun.wait()
        await cache.store.delete(("prices", "1"), expired + 1)
        go.set()
        await until(lambda: not cache.store._pending)
    assert deleted == 2


async def test_values_stay_correct_while_redis_stops(settings: Settings) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(servers.redis())
        own = settings.model_copy(update={"redis_url": SecretStr(url)})
        kind, source = prices(), Source()
        stopped = asyncio.Event()

        async def read(cache: Cache, key: int) -> int:
            calls = 0
            while not stopped.is_set() or calls < 10:
                calls += 1
                assert await cache.get(kind, key, source.load) == Price(amount=1)
                await asyncio.sleep(0)
            return calls

        async with open_cache(own) as cache:
            readers = [asyncio.create_task(read(cache, key)) for key in range(5)]
            await until(lambda: count(cache, kind, "hit") > 10)
            await asyncio.to_thread(stack.close)
            stopped.set()
            assert min(await asyncio.gather(*readers)) >= 10
            # After an error of a store, too, Redis is left alone for a second: no read fails then.
            errors = (cache._metrics.errors.labels(each) for each in ("read", "store"))
            assert sum(each._value.get() for each in errors) >= 1


async def test_warming_delays_the_start_no_longer_than_its_limit(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    brief = settings.model_copy(update={"cache_warm_timeout": 0.05})
    warmed = []

    async def warm(_: FastAPI) -> None:
        warmed.append(1)
        await asyncio.Event().wait()

    async def fail(_: FastAPI) -> None:
        raise LookupError

    app = create_app(brief)
    warm_at_start(app, warm)
    warm_at_start(app, fail)
    async with asyncio.timeout(30), app.router.lifespan_context(app):
        assert warmed == [1]
    assert "warming the cache was not complete in time" in capfd.readouterr().out


@pytest.mark.parametrize(
    "options", [{"ttl": 0}, {"ttl": 1, "stale": -1}, {"ttl": 1, "load_timeout": 0}]
)
def test_a_kind_without_sensible_times_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="seconds"):
        prices(**options)
