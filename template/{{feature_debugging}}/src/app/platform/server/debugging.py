"""Looking inside a running process: tasks, pools, settings, log level, profile, memory, garbage."""

import asyncio
import gc
import logging
import os
import sys
import threading
import traceback
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from pyinstrument import Profiler

from app.platform.base.components import Lifespan
from app.platform.data import http_client, redis
from app.platform.observability import logs
from app.platform.observability.event_loop import format_stack
from app.platform.observability.redaction import redact_fields
from app.platform.server.debug_commands import add_commands
from app.platform.server.debug_socket import DebugError, DebugServer
from app.platform.settings import PlatformSettings

__all__ = ["add_commands", "setup"]

MAX_SECONDS = 60.0  # of a profile or a comparison of memory
MAX_MINUTES = 60.0  # of a changed log level
MAX_TASKS = 200
LOOP_TIMEOUT = 10.0  # seconds for the event loop to start or end a profile
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

logger = logs.get_logger(__name__)


class Inspector:
    """Answers about this process. All methods run in the thread of the socket."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self._app = app
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._level = LogLevel(settings.log_level)

    def handlers(self) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
        """The commands by name."""
        return {
            "tasks": self.tasks,
            "pools": self.pools,
            "settings": self.settings,
            "log-level": self.log_level,
            "profile": self.profile,
            "memory": self.memory,
            "gc": self.garbage,
        }

    def close(self) -> None:
        """Put back what was changed."""
        self._level.reset()

    def tasks(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """The stack of the event loop's thread, of the tasks that wait, and of other threads."""
        names = {each.ident: each.name for each in threading.enumerate()}
        frames = sys._current_frames()
        tasks = sorted(asyncio.all_tasks(self._loop), key=lambda task: task.get_name())
        return {
            "command": " ".join(sys.argv),
            "event loop": format_stack(frames[self._loop_thread]),
            "tasks": [
                {"name": task.get_name(), "stack": _task_stack(task)} for task in tasks[:MAX_TASKS]
            ],
            "tasks not shown": max(0, len(tasks) - MAX_TASKS),
            "threads": [
                {"name": names.get(ident, str(ident)), "stack": format_stack(frame)}
                for ident, frame in frames.items()
                if ident not in (self._loop_thread, threading.get_ident())
            ],
        }

    def pools(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """Connections in use, their maximum, and who waits."""
        state = self._app.state
        found = {
            "redis": redis.connections(state.redis),
            "http": http_client.connections(state.http),
        }
        pools = {name: {"used": used, "maximum": top} for name, (used, top) in found.items()}
        database = {
            "used": state.db.used,
            "maximum": state.db.max_connections,
            "waiting": state.db.waiting,
            "exhausted_seconds": round(state.db.exhausted_seconds, 1),
        }
        return {"database": database, **pools, "requests": len(state.in_flight)}

    def settings(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """The settings in effect; secrets are not shown."""
        return redact_fields(self._settings.model_dump(mode="json"))

    def log_level(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Set the log level for some minutes."""
        level = str(question.get("level", "")).upper()
        if level not in LEVELS:
            raise DebugError(f"Choose a level: {', '.join(LEVELS)}.")
        minutes = _bounded(question.get("minutes"), MAX_MINUTES, "minutes")
        self._level.set(level, minutes * 60)
        return {"level": level, "minutes": minutes, "then": self._settings.log_level}

    def profile(self, question: Mapping[str, Any]) -> str:
        """A profile of the event loop's thread as HTML."""
        seconds = _bounded(question.get("seconds"), MAX_SECONDS, "seconds")
        profiler = Profiler(async_mode="disabled")
        self._in_loop(profiler.start)
        try:
            threading.Event().wait(seconds)
        finally:
            self._in_loop(profiler.stop)
        return str(profiler.output_html())

    def _in_loop(self, call: Callable[[], object]) -> None:
        done = threading.Event()

        def run() -> None:
            call()
            done.set()

        self._loop.call_soon_threadsafe(run)
        if not done.wait(LOOP_TIMEOUT):
            raise DebugError("The event loop is blocked; `app debug tasks` shows by what.")

    def memory(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The lines whose memory has grown most in some seconds, and what there is most of."""
        seconds = _bounded(question.get("seconds"), MAX_SECONDS, "seconds")
        if tracemalloc.is_tracing():
            raise DebugError("The process traces its memory already.")
        tracemalloc.start(5)
        try:
            before = tracemalloc.take_snapshot()
            threading.Event().wait(seconds)
            after = tracemalloc.take_snapshot()
        finally:
            tracemalloc.stop()
        ours = tracemalloc.Filter(inclusive=False, filename_pattern=tracemalloc.__file__)
        grown = after.filter_traces([ours]).compare_to(before.filter_traces([ours]), "lineno")
        types = Counter(type(each).__qualname__ for each in gc.get_objects())
        return {
            "grown": [
                {"line": str(each.traceback[0]), "bytes": each.size_diff, "blocks": each.count_diff}
                for each in grown[:25]
                if each.size_diff > 0
            ],
            "objects": dict(types.most_common(25)),
        }

    def garbage(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """Statistics of the garbage collector, by generation."""
        return {
            "generations": gc.get_stats(),
            "pending": gc.get_count(),
            "thresholds": gc.get_threshold(),
            "frozen": gc.get_freeze_count(),
            "uncollectable": len(gc.garbage),
        }


def _task_stack(task: "asyncio.Task[Any]") -> str:
    frames = task.get_stack()
    if not frames:
        return ""
    lines = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames)
    return "".join(lines.format())


def _bounded(value: Any, maximum: float, unit: str) -> float:
    if not isinstance(value, int | float) or not 0 < value <= maximum:
        raise DebugError(f"Choose up to {maximum:g} {unit}.")
    return float(value)


class LogLevel:
    """The log level of this process, which can be another one for a while."""

    def __init__(self, configured: str) -> None:
        levels = logging.getLevelNamesMapping()
        self._configured = levels[configured]
        self._timer: threading.Timer | None = None
        # structlog's loggers keep their class from their first use, so that its methods change.
        self._class = structlog.make_filtering_bound_logger(self._configured)
        self._methods = dict(vars(self._class))

    def set(self, level: str, seconds: float) -> None:
        """Use another level, for ``seconds``."""
        self.reset()
        number = logging.getLevelNamesMapping()[level]
        self._use(number, dict(vars(structlog.make_filtering_bound_logger(number))))
        self._timer = threading.Timer(seconds, self.reset)
        self._timer.daemon = True
        self._timer.start()

    def reset(self) -> None:
        """Use the configured level."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._use(self._configured, self._methods)

    def _use(self, level: int, methods: Mapping[str, Any]) -> None:
        for name, method in methods.items():
            if not name.startswith("__"):
                setattr(self._class, name, method)
        logging.getLogger().setLevel(level)


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan | None:
    if not settings.debug_socket or not hasattr(os, "getuid"):
        return None

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        inspector = Inspector(app, settings)
        try:
            server = DebugServer(inspector.handlers())
        except OSError as error:  # a read-only file system, a path that is too long
            logger.warning("debug socket not opened", error=str(error))
            yield
            return
        try:
            yield
        finally:
            server.close()
            inspector.close()

    return lifespan
