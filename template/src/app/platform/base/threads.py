"""Threads: how many run synchronous code, and none that delays a shutdown.

Each may hang in a call that nobody can interrupt.
"""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any, NoReturn

from anyio import to_thread
from fastapi import FastAPI

from app.platform.base.components import Lifespan
from app.platform.settings import PlatformSettings


async def run_in_daemon_thread(function: Callable[[], object], seconds: float) -> None:
    """Run ``function`` in its own thread, and wait for at most ``seconds``.

    ``asyncio.to_thread`` would wait for a free thread, and the interpreter for the end of this one.
    """
    done, loop = asyncio.Event(), asyncio.get_running_loop()

    def run() -> None:
        try:
            function()
        finally:
            with suppress(RuntimeError):  # the loop has closed after the time-out
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, daemon=True).start()
    with suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), seconds)


def exit_process(code: int) -> NoReturn:
    """End this process now, as the interpreter would but for the wait for its threads."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or nobody reads it
            stream.flush()
    os._exit(code)


# The calls that a task and those that it has started are running in threads; unset: not tracked.
_calls: ContextVar[set[Future[Any]] | None] = ContextVar("calls_in_threads", default=None)


def track_calls() -> set[Future[Any]]:
    """The calls of ``asyncio.to_thread`` that the current task has running, from now on.

    Cancelling the task leaves them running.
    """
    calls: set[Future[Any]] = set()
    _calls.set(calls)
    return calls


class Threads(ThreadPoolExecutor):
    """The threads of ``asyncio.to_thread``."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        call = super().submit(function, *args, **kwargs)
        if (calls := _calls.get()) is not None:
            calls.add(call)
            call.add_done_callback(calls.discard)
        return call


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    """Bound the threads of synchronous routes, and those of ``asyncio.to_thread``."""

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        size = settings.thread_pool_size
        to_thread.current_default_thread_limiter().total_tokens = size
        asyncio.get_running_loop().set_default_executor(Threads(size, "to_thread"))
        yield

    return lifespan
