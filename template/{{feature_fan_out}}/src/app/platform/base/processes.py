"""Processes for CPU-bound functions, which would block the event loop or hold the interpreter lock.

They are started by the first calls, each with a new interpreter: nothing is inherited by a fork. A
call that exceeds its time-out, or whose request is cancelled, ends its process.
"""

import asyncio
import math
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Annotated, TypeVar, TypeVarTuple

from anyio import CapacityLimiter, to_process
from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

from app.platform.base.components import Lifespan
from app.platform.base.cpus import available_cpus
from app.platform.base.errors import AppError, Unavailable
from app.platform.settings import PlatformSettings

Arguments = TypeVarTuple("Arguments")
T = TypeVar("T")


class ComputationTimeout(AppError):
    """A function in another process did not finish within its time-out."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    code = "timeout"

    def __init__(self) -> None:
        super().__init__("The computation did not finish in time.")


class Processes:
    """At most ``size`` processes, for which at most ``queue_limit`` calls wait."""

    def __init__(self, size: int, queue_limit: int) -> None:
        self._limiter = CapacityLimiter(size)
        self._queue_limit = queue_limit

    @property
    def waiting(self) -> int:
        """Calls that wait for a free process."""
        return self._limiter.statistics().tasks_waiting

    async def run(
        self,
        function: Callable[[*Arguments], T],
        *arguments: *Arguments,
        timeout: float,  # noqa: ASYNC109 (it also ends the process)
    ) -> T:
        """Result of ``function(*arguments)`` in another process; raises what it raises.

        ``function`` is defined at the top level of a module; arguments and result are pickled.
        ``timeout``: seconds, including the wait for a free process; then ``ComputationTimeout`` is
        raised, and ``Unavailable`` if too many calls are waiting.
        """
        if self._limiter.available_tokens <= 0 and self.waiting >= self._queue_limit:
            raise Unavailable("All processes for computations are busy.")
        try:
            async with asyncio.timeout(timeout) as limit:
                return await to_process.run_sync(
                    partial(_run, timeout, function, arguments),
                    cancellable=True,
                    limiter=self._limiter,
                )
        except TimeoutError:
            if limit.expired():
                raise ComputationTimeout from None
            raise


def _run(timeout: float, function: Callable[..., T], arguments: tuple[object, ...]) -> T:
    """Call ``function``, in the other process.

    The alarm ends a process whose parent was killed, and so can no longer end it.
    """
    if hasattr(signal, "alarm"):  # not on Windows
        signal.alarm(math.ceil(timeout) + 1)
    try:
        return function(*arguments)
    finally:
        if hasattr(signal, "alarm"):
            signal.alarm(0)


async def _processes(connection: HTTPConnection) -> Processes:
    processes: Processes = connection.app.state.processes
    return processes


ProcessesDep = Annotated[Processes, Depends(_processes)]


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        size = settings.process_pool_size or max(1, math.floor(available_cpus()))
        app.state.processes = Processes(size, settings.process_queue_limit)
        yield

    return lifespan
