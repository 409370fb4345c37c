"""Probes: alive (asks nobody), ready (asks each dependency), started.

Liveness never asks a dependency: an outage of Postgres must not restart every process. Readiness
asks each with a time-out of its own and remembers the answer for a moment, so that a load
balancer's probes cost nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import BaseModel
from sqlalchemy import text

from app.platform import about
from app.platform.settings import PlatformSettings

TIMEOUT = 2.0  # seconds that one dependency has to answer
REMEMBERED = 1.0  # seconds that an answer stays good

Ping = Callable[[], Awaitable[object]]

router = APIRouter(prefix="/health", tags=["health"])


class Check(BaseModel):
    """How one dependency is, and how long it took to say so, in milliseconds."""

    status: Literal["up", "down"]
    critical: bool
    latency_ms: float
    error: str | None = None


class Health(BaseModel):
    """``degraded``: answering, with something that is not critical away."""

    status: Literal["ready", "degraded", "not_ready"]
    version: str
    draining: bool = False
    checks: dict[str, Check] = {}


class Alive(BaseModel):
    status: Literal["alive"] = "alive"


class Started(BaseModel):
    status: Literal["started"] = "started"


@dataclass
class Readiness:
    """Asks the dependencies, one round at a time."""

    timeout: float = TIMEOUT
    pings: dict[str, tuple[Ping, bool]] = field(default_factory=dict)
    _checks: dict[str, Check] = field(default_factory=dict)
    _until: float = 0.0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def add(self, name: str, ping: Ping, *, critical: bool) -> None:
        """Ask ``ping``, which raises when the dependency is away.

        Without a ``critical`` one the service is not ready; without another it is degraded.
        """
        self.pings[name] = (ping, critical)

    async def checks(self) -> dict[str, Check]:
        async with self._lock:
            if time.monotonic() >= self._until:
                asked = (self._ask(ping, critical) for ping, critical in self.pings.values())
                answers = await asyncio.gather(*asked)
                self._checks = dict(zip(self.pings, answers, strict=True))
                self._until = time.monotonic() + REMEMBERED
            return self._checks

    async def _ask(self, ping: Ping, critical: bool) -> Check:
        start = time.perf_counter()
        error = None
        try:
            async with asyncio.timeout(self.timeout):
                await ping()
        except TimeoutError:
            error = f"no answer within {self.timeout:g} s"
        except Exception as reason:  # noqa: BLE001
            # The class alone: messages hold addresses, and anyone may read this page.
            error = type(reason).__name__
        latency = round((time.perf_counter() - start) * 1000, 2)
        status: Literal["up", "down"] = "down" if error else "up"
        return Check(status=status, critical=critical, latency_ms=latency, error=error)


@router.get("/live")
async def live() -> Alive:
    """Answer as long as the process can answer at all."""
    return Alive()


@router.get("/startup")
async def startup() -> Started:
    """Answer once start-up is over: before that, nothing listens."""
    return Started()


@router.get("/ready", responses={503: {"model": Health, "description": "Not ready"}})
async def ready(request: Request, response: Response) -> Health:
    """Say whether requests should be sent here, with each dependency's status and latency."""
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


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    app.state.readiness = readiness = Readiness()

    async def postgres() -> None:
        async with app.state.db.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def redis() -> None:
        await app.state.redis.ping()

    readiness.add("postgres", postgres, critical=True)
    readiness.add("redis", redis, critical=False)
    app.include_router(router)
