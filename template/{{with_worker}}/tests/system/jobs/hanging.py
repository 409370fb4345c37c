"""Jobs that hang, and a worker that notices it within a second or two."""

import asyncio
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from app.platform.base import heartbeat
from app.platform.jobs import JobContext, job, watchdog
from tests.platform.jobs import samples as samples

watchdog.CHECK_INTERVAL = float(os.environ.get("CHECK_INTERVAL", "0.1"))
watchdog.BLOCKED_AFTER = 0.5
watchdog.HARD_LIMIT_MARGIN = 1.0
watchdog.RELEASE_MARGIN = 1.0
watchdog.MIN_FREEZE_LIMIT = 3.0
heartbeat.INTERVAL = 0.2

FOREVER = 600.0  # seconds


async def _ignore_cancellations(_: float) -> None:
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(FOREVER)


async def _call(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251 (that is the point)


async def _compute(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def _thread(seconds: float) -> None:
    await asyncio.to_thread(time.sleep, seconds)


async def _hold_interpreter_lock(_: float) -> None:
    re.match("(a+)+$", "a" * 60 + "b")


WAYS: dict[str, Callable[[float], object]] = {
    "call": _call,
    "thread": _thread,
    "compute": _compute,
    "ignore": _ignore_cancellations,
    "lock": _hold_interpreter_lock,
}


def _announce() -> None:
    """Write down the id of this process, without an await that the timeout of a job could end."""
    Path(os.environ["TMPDIR"], "hanging").write_text(str(os.getpid()))


async def _work(context: JobContext, way: str, seconds: float) -> int:
    _announce()
    await WAYS[way](seconds)  # type: ignore[misc]
    return context.attempt


@job(retries=0, timeout=0.5)
async def hang(context: JobContext, way: str) -> int:
    """Announce the process id, and hang in one of the ``WAYS``."""
    return await _work(context, way, FOREVER)


@job(retries=0, timeout=60)
async def work(context: JobContext, way: str, seconds: float) -> int:
    """Announce the process id, work for some seconds, and return the attempt."""
    return await _work(context, way, seconds)
