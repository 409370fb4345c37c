"""A cache: typed values, one load per key across all processes, exact invalidation.

The values are in Redis (``cache_store``) and, for ``local_ttl``, in memory. While Redis is
unavailable or slow, the value is loaded.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from functools import partial
from typing import Annotated, Any, Generic, TypeVar, cast
from uuid import uuid4

from fastapi import Depends, FastAPI
from prometheus_client import CollectorRegistry, Counter, Histogram
from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from app.platform.base import context
from app.platform.base.components import Lifespan
from app.platform.base.errors import Unavailable
from app.platform.base.tasks import cancel
from app.platform.data.cache_store import CacheStore, Key
from app.platform.data.database import in_transaction, on_commit
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

logger = get_logger(__name__)

T = TypeVar("T")
Load = Callable[[], Awaitable[T | None]]
Warmer = Callable[[FastAPI], Awaitable[None]]

JITTER = 0.1  # values that were stored together expire over this share of their TTL
POLL_INTERVALS = (0.01, 0.1)  # seconds between two lookups of a value that another process loads


class Cached(Generic[T]):
    """A kind of cached value: ``PRICES = Cached("prices", Price, ttl=60)``, at module level.

    ``name``: the namespace of its keys; ``version``: raise it when the type changes its meaning.
    All times are in seconds. ``ttl``: until a value expires, at most; ``stale``: how much longer
    it is returned while one caller loads it again. ``missing_ttl``: how long ``None`` is cached;
    0, not at all. ``local_ttl``: how long each process also keeps a value in its own memory, where
    invalidations of other processes don't reach it; 0, not at all. ``load_timeout``: for one load,
    after which another process may load.
    """

    def __init__(
        self,
        name: str,
        type_: type[T],
        *,
        ttl: float,
        stale: float = 0,
        missing_ttl: float = 0,
        local_ttl: float = 0,
        load_timeout: float = 5,
        version: int = 1,
    ) -> None:
        if ttl <= 0 or load_timeout <= 0 or min(stale, missing_ttl, local_ttl) < 0:
            raise ValueError(f"The times of the cache {name} are seconds, its ttl more than 0.")
        if not name or set(name) & set("{} "):
            raise ValueError(f"{name!r} is not a name for a cache; write it like orders.totals.")
        self.name = name
        self.prefix = f"{name}.v{version}"
        self.ttl = ttl
        self.stale = stale
        self.missing_ttl = missing_ttl
        self.local_ttl = local_ttl
        self.load_timeout = load_timeout
        optional: Any = type_ | None
        self._adapter: TypeAdapter[T | None] = TypeAdapter(optional)

    def encode(self, value: T | None) -> str:
        return self._adapter.dump_json(value).decode()

    def decode(self, text: str) -> T | None:
        return self._adapter.validate_json(text)

    def expiry(self, text: str) -> int:
        """Milliseconds for which Redis keeps a value, its stale time included; 0 for none."""
        ttl = self.missing_ttl if text == MISSING else self.ttl
        if not ttl:
            return 0
        ttl *= random.uniform(1 - JITTER, 1)  # noqa: S311 (no secret)
        return max(1, int((ttl + self.stale) * 1000))


MISSING = "null"


class CacheMetrics:
    """Prometheus metrics of cached values: results, loads, waits and errors."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.results = Counter(
            "cache_results",
            "Values returned: hit, stale, local (memory), joined (another caller's), load, bypass.",
            ["cache", "result"],
            registry=registry,
        )
        self.loads = Histogram(
            "cache_load_seconds", "Duration of loads.", ["cache", "outcome"], registry=registry
        )
        self.waits = Counter(
            "cache_waits", "Waits for a load in another process.", ["cache"], registry=registry
        )
        self.errors = Counter(
            "cache_errors", "Uses of Redis that failed.", ["operation"], registry=registry
        )


class Cache:
    """The cached values of this process, in Redis and in memory."""

    def __init__(self, redis: Redis, metrics: CacheMetrics, settings: PlatformSettings) -> None:
        self.store = CacheStore(redis, metrics.errors, settings.cache_timeout)
        self._metrics = metrics
        self._max_local = settings.cache_local_entries
        self._loads = asyncio.Semaphore(settings.cache_max_loads)
        self._flights: dict[Key, asyncio.Task[str]] = {}
        self._local: OrderedDict[Key, tuple[float, str]] = OrderedDict()
        self._tasks = set[asyncio.Task[Any]]()

    async def get(self, kind: Cached[T], key: object, load: Load[T]) -> T | None:
        """The value of ``key``, from the cache or by ``load``, which returns ``None`` for none.

        ``load`` runs without this request's transaction, and once for all who wait for it; it
        reads with a ``ReadSession``. In a transaction that has executed a statement, the value is
        loaded in it, and not cached: it may depend on changes that are rolled back.
        Raises what ``load`` raises, and ``Unavailable`` if it takes longer than ``load_timeout``.
        """
        name = (kind.prefix, str(key))
        if in_transaction():
            self._count(kind, "bypass")
            return await load()
        text = self._from_memory(name) if kind.local_ttl else None
        if text is not None:
            self._count(kind, "local")
            return kind.decode(text)
        flight = self._flights.get(name)
        if flight is None:
            flight = self._start_flight(kind, name, load)
        else:
            self._count(kind, "joined")
        # The load continues if this caller is cancelled: others may wait for it.
        text = await asyncio.shield(flight)
        try:
            return kind.decode(text)
        except ValidationError:  # written by a release with another type
            await self.invalidate(kind, key)
            return kind.decode(await asyncio.shield(self._spawn(self._load(kind, load))))

    def invalidate_on_commit(self, session: AsyncSession, kind: Cached[Any], *keys: object) -> None:
        """Invalidate ``keys`` once the transaction has committed; not if it is rolled back.

        Loads that began before are not stored. While Redis is unavailable, this process tries again
        until the values have expired.
        """
        on_commit(session, partial(self.invalidate, kind, *keys))

    async def invalidate(self, kind: Cached[Any], *keys: object) -> None:
        """Invalidate ``keys`` now; for changes that no transaction makes. Never raises."""
        expired = time.monotonic() + kind.ttl + kind.stale + kind.missing_ttl
        for key in keys:
            name = (kind.prefix, str(key))
            self._drop_local(name)
            await self.store.delete(name, expired)
            self._drop_local(name)  # what was read before the deletion

    async def close(self) -> None:
        """Cancel the loads in progress."""
        await cancel(*self._tasks)

    def _start_flight(self, kind: Cached[T], name: Key, load: Load[T]) -> asyncio.Task[str]:
        """Look the value up and load it if necessary, for all callers of this process at once."""
        flight = self._spawn(self._look_up_or_load(kind, name, load))
        self._flights[name] = flight

        def done(task: asyncio.Task[str]) -> None:
            if self._flights.get(name) is task:
                del self._flights[name]

        flight.add_done_callback(done)
        return flight

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, context=_own_context())
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the callers got it, if any are left

    async def _look_up_or_load(self, kind: Cached[T], name: Key, load: Load[T]) -> str:
        owner = uuid4().hex
        deadline = time.monotonic() + self.store.lock_seconds(kind.load_timeout)
        first, last = POLL_INTERVALS
        interval = first
        while True:
            found = await self.store.look_up(name, owner, kind.load_timeout, kind.stale)
            if found is None:  # without Redis
                return await self._load(kind, load)
            text, fresh, owns = found
            if text is not None:
                if fresh > 0:
                    self._count(kind, "hit")
                    self._keep(kind, name, text, fresh / 1000)
                    return text
                self._count(kind, "stale")
                if owns:
                    self._spawn(self._refresh(kind, name, owner, load))
                return text
            if owns:
                return await self._load_and_store(kind, name, owner, load)
            if time.monotonic() >= deadline:
                return await self._load(kind, load)
            if interval == first:
                self._metrics.waits.labels(kind.name).inc()
            await asyncio.sleep(interval)
            interval = min(2 * interval, last)

    async def _refresh(self, kind: Cached[T], name: Key, owner: str, load: Load[T]) -> None:
        try:
            await self._load_and_store(kind, name, owner, load)
        except Exception as error:  # noqa: BLE001 (the stale value was returned; others will try)
            logger.warning("refresh failed", cache=kind.name, error=type(error).__name__)

    async def _load_and_store(self, kind: Cached[T], name: Key, owner: str, load: Load[T]) -> str:
        """Load as the owner of the lock, and release it whatever happens."""
        try:
            text = await self._load(kind, load)
        except BaseException:
            await asyncio.shield(self.store.release(name, owner, "", 0))
            raise
        expiry = kind.expiry(text)
        # In memory only what Redis has accepted: an invalidation may have come in between.
        if await self.store.release(name, owner, text, expiry) and expiry:
            self._keep(kind, name, text, expiry / 1000 - kind.stale)
        return text

    async def _load(self, kind: Cached[T], load: Load[T]) -> str:
        """The value as ``load`` returns it, within ``load_timeout`` and ``CACHE_MAX_LOADS``."""
        started, outcome = time.monotonic(), "error"
        try:
            async with asyncio.timeout(kind.load_timeout) as limit, self._loads:
                text = kind.encode(await load())
            outcome = "missing" if text == MISSING else "value"
        except TimeoutError as error:
            if not limit.expired():
                raise
            outcome = "timeout"
            raise Unavailable("A value took too long to load; try again.") from error
        finally:
            seconds = time.monotonic() - started
            self._metrics.loads.labels(kind.name, outcome).observe(seconds)
        self._count(kind, "load")
        return text

    def _from_memory(self, name: Key) -> str | None:
        entry = self._local.get(name)
        if entry is None:
            return None
        expires, text = entry
        if time.monotonic() >= expires:
            del self._local[name]
            return None
        self._local.move_to_end(name)
        return text

    def _keep(self, kind: Cached[Any], name: Key, text: str, seconds: float) -> None:
        """Keep a value in memory, unless it was invalidated here while it was being read."""
        if not kind.local_ttl or self._flights.get(name) is not asyncio.current_task():
            return
        self._local[name] = (time.monotonic() + min(kind.local_ttl, seconds), text)
        self._local.move_to_end(name)
        if len(self._local) > self._max_local:
            self._local.popitem(last=False)

    def _drop_local(self, name: Key) -> None:
        """Drop what memory holds, and let later callers not join a load that has begun."""
        self._local.pop(name, None)
        self._flights.pop(name, None)

    def _count(self, kind: Cached[Any], result: str) -> None:
        self._metrics.results.labels(kind.name, result).inc()


def _own_context() -> Context:
    """A context with the ids of the request, but without its transaction, lock and deadline."""
    request = context.current()
    own = copy_context()
    loading = context.RequestContext(request.request_id, request.trace_id, request.span_id)
    loading.has_written = True  # a standby could give back what an invalidation has removed
    own.run(context._request_context.set, loading)
    return own


def warm_at_start(app: FastAPI, warmer: Warmer) -> None:
    """Call ``warmer(app)`` before the service is ready, for at most ``CACHE_WARM_TIMEOUT``.

    Call this in the ``setup`` of a component. A warmer that fails or is late is logged.
    """
    app.state.cache_warmers.append(warmer)


async def _warm(app: FastAPI, seconds: float) -> None:
    warmers: list[Warmer] = app.state.cache_warmers
    try:
        async with asyncio.timeout(seconds):
            results = await asyncio.gather(
                *(warmer(app) for warmer in warmers), return_exceptions=True
            )
    except TimeoutError:
        logger.warning("warming the cache was not complete in time", seconds=seconds)
        return
    for error in results:
        if isinstance(error, BaseException):
            logger.warning("warming the cache failed", error=f"{type(error).__name__}: {error}")


async def _cache(connection: HTTPConnection) -> Cache:
    return cast("Cache", connection.app.state.cache)


CacheDep = Annotated[Cache, Depends(_cache)]


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    app.state.cache_warmers = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        metrics = CacheMetrics(app.state.metrics.registry)
        app.state.cache = cache = Cache(app.state.redis, metrics, settings)
        retries = asyncio.create_task(cache.store.retry_deletes())
        try:
            if app.state.cache_warmers and settings.cache_warm_timeout:
                await _warm(app, settings.cache_warm_timeout)
            yield
        finally:
            await cancel(retries)
            await cache.close()

    return lifespan
