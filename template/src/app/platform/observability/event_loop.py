"""The detector of a blocked event loop: a thread that names the line that blocks it, in the log.

While one function computes or waits without ``await``, no other request of the process proceeds.
"""

import asyncio
import asyncio.base_events
import selectors
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from fastapi import FastAPI

import app
from app.platform.base import context
from app.platform.base.components import Lifespan
from app.platform.observability.logs import get_logger
from app.platform.observability.telemetry import counter
from app.platform.settings import PlatformSettings

SOURCES = Path(app.__file__).parent
MAX_FRAMES = 60
# Where an event loop of the standard library is while it waits.
IDLE_FILES = frozenset({selectors.__file__, asyncio.base_events.__file__})

BLOCKS = counter("event_loop_blocks_total", "Times that the event loop was blocked.")
BLOCKED_SECONDS = counter(
    "event_loop_blocked_seconds_total", "Seconds for which the event loop was blocked."
)

logger = get_logger(__name__)


class Detector:
    """Finds what blocks the event loop that starts it for longer than ``threshold`` seconds.

    Blocks of up to twice that may be missed: the loop is asked once per threshold.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._closing = threading.Event()
        self._runner: CodeType | None = None

    def start(self) -> None:
        """Start to watch the running event loop, whose thread this is."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._thread = threading.Thread(target=self._run, name="event loop detector", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.wait(self._threshold):
            answered = threading.Event()
            asked = time.monotonic()
            try:
                self._loop.call_soon_threadsafe(self._answer, answered)
            except RuntimeError:  # it has closed
                return
            if not answered.wait(self._threshold):
                self._report(answered, asked)

    def _answer(self, answered: threading.Event) -> None:
        # uvloop is not written in Python: while it waits, this is the innermost frame.
        caller = sys._getframe().f_back
        self._runner = caller.f_code if caller else None
        answered.set()

    def _report(self, answered: threading.Event, asked: float) -> None:
        frame = self.busy_frame()
        if frame is None or answered.is_set():
            return
        BLOCKS.inc()
        where = blocking_line(frame)
        fields = {"line": where, "stack": format_stack(frame)}
        ids = _context_of(asyncio.current_task(self._loop))
        ids.run(_log, "event loop blocked", **fields)
        while not answered.wait(1.0):
            if self._closing.is_set():
                return
        seconds = time.monotonic() - asked
        BLOCKED_SECONDS.inc(seconds)
        ids.run(_log, "event loop answers again", line=where, blocked_ms=round(seconds * 1000))

    def busy_frame(self) -> FrameType | None:
        """The innermost frame of the event loop's thread; ``None`` while the loop waits.

        A loop that waits answers late if the process gets no CPU time: no line of the service is to
        blame then.
        """
        frame = sys._current_frames().get(self._loop_thread)
        if frame is None:
            return None
        code = frame.f_code
        return None if code is self._runner or code.co_filename in IDLE_FILES else frame


def _log(event: str, **fields: Any) -> None:
    logger.warning(event, route=context.current().name, **fields)


def _context_of(task: "asyncio.Task[Any] | None") -> Context:
    """The context of a task of another thread, for the ids in log lines."""
    get_context = getattr(task, "get_context", None)  # Python 3.12
    return get_context().copy() if get_context else copy_context()


def blocking_line(frame: FrameType) -> str:
    """The innermost line of this service, or else of a library: ``orders/service.py:42 in pay``."""
    inner: FrameType | None = frame
    while inner is not None:
        path = Path(inner.f_code.co_filename)
        if path.is_relative_to(SOURCES):
            return f"{path.relative_to(SOURCES)}:{inner.f_lineno} in {inner.f_code.co_name}"
        inner = inner.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def format_stack(frame: FrameType) -> str:
    """The innermost frames of a stack, as in a traceback, without values."""
    return "".join(traceback.format_stack(frame, MAX_FRAMES))


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan | None:
    if not settings.loop_block_ms:
        return None

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        detector = Detector(settings.loop_block_ms / 1000)
        detector.start()
        try:
            yield
        finally:
            detector.close()

    return lifespan
