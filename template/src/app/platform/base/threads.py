"""Threads that must not delay a shutdown: each may hang in a call that nobody can interrupt."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn


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
