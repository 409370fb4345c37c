"""Health probes: liveness, readiness, startup.

Liveness checks no dependency: an outage of Postgres must not restart every process. Readiness
checks each with its own time-out and caches the result briefly, so that frequent probes are cheap.
It also waits until the database has the migrations of this release, or those of a newer one.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client.core import GaugeMetricFamily, Metric
from pydantic import BaseModel, Field
from sqlalchemy import Connection, text

from app.platform import about
from app.platform.base.components import Lifespan
from app.platform.base.errors import DatabaseUnavailable
from app.platform.base.tasks import cancel
from app.platform.data.engine import create_engine
from app.platform.http.openapi import Tag
from app.platform.observability import metrics
from app.platform.settings import PlatformSettings

CHECK_TIMEOUT = 2.0  # seconds for one dependency
CACHE_TTL = 1.0  # seconds for which a result is reused
# Seconds that a scrape waits for checks. A dependency that hangs is in the next scrape.
METRICS_TIMEOUT = 1.0
# Seconds for the first check of the migrations, which loads Alembic: 0.3 s on an idle machine.
LOADING_TIMEOUT = 10.0
# https://www.postgresql.org/docs/current/errcodes-appendix.html
TOO_MANY_CONNECTIONS = "53300"  # SQLSTATE
PING = text("SELECT 1")
VERSION_TABLE = text("SELECT to_regclass('alembic_version') IS NOT NULL")
VERSIONS = text("SELECT version_num FROM alembic_version")

T = TypeVar("T")
Ping = Callable[[], Awaitable[object]]

router = APIRouter(
    prefix="/health", tags=[Tag("health", "Probes of the process and its dependencies.")]
)


class Check(BaseModel):
    """The state of one dependency, and the latency of its check in milliseconds."""

    status: Literal["up", "down"]
    critical: bool = Field(examples=[True])
    latency_ms: float = Field(examples=[1.4])
    error: str | None = None


class Health(BaseModel):
    """The readiness of the service; ``degraded``: ready, but a non-critical dependency is down."""

    status: Literal["ready", "degraded", "not_ready"]
    version: str = Field(examples=["1.4.0"])
    draining: bool = False
    checks: dict[str, Check] = {}


class Alive(BaseModel):
    status: Literal["alive"] = "alive"


class Started(BaseModel):
    status: Literal["started"] = "started"


@dataclass
class Readiness:
    """The dependency checks of the readiness probe; concurrent probes share one run."""

    timeout: float = CHECK_TIMEOUT
    pings: dict[str, tuple[Ping, bool, float]] = field(default_factory=dict)
    _checks: dict[str, Check] = field(default_factory=dict)
    _expires_at: float = 0.0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _scraped: asyncio.Task[dict[str, Check]] | None = None

    def add(self, name: str, ping: Ping, *, critical: bool, extra_time: float = 0.0) -> None:
        """Add a dependency; ``ping`` raises while it is down.

        The service is not ready while a ``critical`` one is down, and degraded while another is.
        ``extra_time``: seconds in addition to the time-out of every check.
        """
        self.pings[name] = (ping, critical, extra_time)

    async def checks(self) -> dict[str, Check]:
        async with self._lock:
            if time.monotonic() >= self._expires_at:
                async with asyncio.TaskGroup() as group:  # if cancelled, it waits for their end
                    tasks = {
                        name: group.create_task(self._check(*each))
                        for name, each in self.pings.items()
                    }
                self._checks = {name: task.result() for name, task in tasks.items()}
                self._expires_at = time.monotonic() + CACHE_TTL
            return self._checks

    async def collect(self) -> Iterable[Metric]:
        """``dependency_up`` of each dependency, from the last checks that ended."""
        if self._scraped is None or self._scraped.done():
            # In a context of its own: the checks may go on after the scrape.
            self._scraped = asyncio.create_task(self.checks(), context=Context())
        await asyncio.wait({self._scraped}, timeout=METRICS_TIMEOUT)
        metric = GaugeMetricFamily(
            "dependency_up",
            "Whether this process reaches a dependency; without a critical one it is not ready.",
            labels=["dependency", "critical"],
        )
        for name, check in self._checks.items():
            metric.add_metric([name, str(check.critical).lower()], check.status == "up")
        return [metric]

    async def close(self) -> None:
        """End the checks that a scrape has left running: they would connect again."""
        if self._scraped:
            await cancel(self._scraped)

    async def _check(self, ping: Ping, critical: bool, extra_time: float) -> Check:
        start = time.perf_counter()
        error = None
        try:
            async with asyncio.timeout(self.timeout + extra_time):
                await ping()
        except TimeoutError:
            error = f"no answer within {self.timeout + extra_time:g} s"
        except Exception as reason:  # noqa: BLE001
            # The class alone: messages contain addresses, and this response is public.
            driver_error = reason.__cause__ if isinstance(reason, DatabaseUnavailable) else reason
            error = type(driver_error).__name__
        latency = round((time.perf_counter() - start) * 1000, 2)
        status: Literal["up", "down"] = "down" if error else "up"
        return Check(status=status, critical=critical, latency_ms=latency, error=error)


@router.get("/live")
async def live() -> Alive:
    """Liveness: the process responds."""
    return Alive()


@router.get("/startup")
async def startup() -> Started:
    """Startup: always successful, because the process listens only once start-up is complete."""
    return Started()


@router.get("/ready", responses={503: {"model": Health, "description": "Not ready"}})
async def ready(request: Request, response: Response) -> Health:
    """Readiness: whether to route traffic here, with the state of each dependency."""
    state = request.app.state
    checks = await state.readiness.checks()
    down = [check for check in checks.values() if check.status == "down"]
    draining = getattr(state, "draining", False)
    status: Literal["ready", "degraded", "not_ready"] = "degraded" if down else "ready"
    if draining or any(check.critical for check in down):
        status = "not_ready"
        response.status_code = 503
    response.headers["Cache-Control"] = "no-store"
    return Health(status=status, version=about.version(), draining=draining, checks=checks)


class MigrationsPending(Exception):
    """The database lacks migrations of this release: run ``app migrate``."""


class DatabaseProbe:
    """Checks of Postgres that do not wait for a free connection of the pool."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._app = app
        # For a busy pool, which is not an outage: all replicas would lose their traffic at once.
        self._unpooled = create_engine(settings, pooled=False)
        self._migrated = False
        self._lock = asyncio.Lock()  # so that one check does not make the pool busy for the other

    async def ping(self) -> None:
        """Raise if Postgres does not answer."""
        try:
            await self._read(lambda connection: connection.execute(PING).close())
        except DatabaseUnavailable as error:
            # With too many it answers, and is busy with other clients.
            if getattr(error.__cause__, "sqlstate", None) != TOO_MANY_CONNECTIONS:
                raise

    async def check_migrations(self) -> None:
        """Raise if migrations of this release are pending. Asks nothing once they are not."""
        if self._migrated:
            return
        applied: Sequence[str] = ()
        async with asyncio.timeout(CHECK_TIMEOUT):
            if await self._read(lambda connection: connection.scalar(VERSION_TABLE)):
                applied = await self._read(lambda connection: connection.scalars(VERSIONS).all())
        if await asyncio.to_thread(_missing_revisions, applied):
            raise MigrationsPending
        self._migrated = True

    async def _read(self, run: Callable[[Connection], T]) -> T:
        async with self._lock:
            if not self._app.state.db.exhausted:
                result: T = await self._app.state.db.read(run)
                return result
            async with self._unpooled.connect() as connection:
                return await connection.run_sync(run)


def _missing_revisions(applied: Sequence[str]) -> list[str]:
    from app.platform.data import revisions  # noqa: PLC0415 (0.3 s at every start)

    return revisions.missing_revisions(applied, revisions.release_scripts())


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    app.state.readiness = readiness = Readiness()
    database = DatabaseProbe(app, settings)

    async def redis() -> None:
        await app.state.redis.ping()

    readiness.add("postgres", database.ping, critical=True)
    readiness.add(
        "migrations", database.check_migrations, critical=True, extra_time=LOADING_TIMEOUT
    )
    readiness.add("redis", redis, critical=False)
    metrics.register(app, "dependencies", readiness.collect)
    app.include_router(router)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await readiness.close()

    return lifespan
