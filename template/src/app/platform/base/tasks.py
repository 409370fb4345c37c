"""Cancellation of tasks that may ignore the first attempt."""

import asyncio
from typing import Any

CANCEL_INTERVAL = 0.5  # seconds


async def cancel(*tasks: "asyncio.Task[Any]", interval: float = CANCEL_INTERVAL) -> None:
    """Cancel ``tasks`` until all have ended, whatever their results.

    Cancels again after each ``interval`` (seconds): before Python 3.12, ``asyncio.wait_for``, which
    redis-py calls for each command, can lose a cancellation (https://bugs.python.org/issue37658).
    """
    while unfinished := [task for task in tasks if not task.done()]:
        for task in unfinished:
            task.cancel()
        await asyncio.wait(unfinished, timeout=interval)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # or asyncio would log that nobody has retrieved it
