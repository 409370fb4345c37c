"""Logs: one JSON line per event on stdout from every logger, or coloured lines in a terminal.

Every line carries the ids of its request; secrets and personal values are redacted (see
``redaction``). The access log is written in batches, every other line at once.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

import orjson
import structlog
from fastapi import FastAPI
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from app.platform.base import context
from app.platform.observability.redaction import redact_fields
from app.platform.settings import PlatformSettings
from app.platform.settings.hints import variable_hints

# JSON may contain these unescaped; some log readers treat them as line ends.
LINE_ENDS = ("\x85", "\u2028", "\u2029")

STDOUT = 1
LOGGED = "_app_logged"  # attribute of an error
# Of Uvicorn and `websockets`: the access log has a line for each WebSocket.
WEBSOCKET_LINES = (
    '%s - "WebSocket',
    "connection open",
    "connection closed",
    "connection rejected",
    "ASGI callable returned without completing handshake",  # also after a refusal
    "Invalid UTF-8 sequence received from client",  # an error with a traceback
)

Writer = Callable[[dict[str, Any]], None]


class Output:
    """A buffer of lines for stdout: each write is a system call, so lines can be combined."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._lock = threading.Lock()

    def buffer(self, line: bytes) -> None:
        """Write a line with the next ``flush``."""
        with self._lock:
            self._lines.append(line)

    def write(self, line: bytes) -> None:
        """Write a line now."""
        self.buffer(line)
        self.flush()

    def flush(self) -> None:
        with self._lock:
            data = b"".join(self._lines)
            self._lines.clear()
            _write_all(STDOUT, data)


def _write_all(descriptor: int, data: bytes) -> None:
    """Write, even if the pipe is full or closed: logging must not stop the service."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            os.set_blocking(descriptor, True)
        except OSError:
            return


class OutputHandler(logging.Handler):
    """A handler that sends the standard library's log records to the same output."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            output.write(self.format(record).encode(errors="replace") + b"\n")
        except Exception:  # noqa: BLE001 (a record that can't be formatted must not break its caller)
            self.handleError(record)


class _Logger:
    """The logger to which structlog passes rendered lines."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def _write(self, line: bytes | str) -> None:
        output.write((line if isinstance(line, bytes) else line.encode(errors="replace")) + b"\n")

    debug = info = warning = error = critical = exception = msg = _write


output = Output()


def get_logger(name: str) -> FilteringBoundLogger:
    """A structured logger: ``logger.info("order placed", order_id=7)``."""
    return cast(FilteringBoundLogger, structlog.get_logger(name))


# Whatever LOG_LEVEL is: what has to be proven later is written in any case.
audit_logger: FilteringBoundLogger = structlog.wrap_logger(
    None,
    wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
    logger_factory_args=("app.audit",),
)


def add_context(_: Any, __: str, event: EventDict) -> EventDict:
    """Add the ids of the current request or job."""
    current = context.current()
    for name in ("request_id", "trace_id", "span_id", "user_id"):
        if value := getattr(current, name):
            event.setdefault(name, value)
    return event


def _redact(_: Any, __: str, event: EventDict) -> EventDict:
    return redact_fields(event)


def _one_line(_: Any, __: str, event: EventDict) -> EventDict:
    """Escape line breaks, so that logged input can't forge lines. JSON escapes them anyway."""
    event["event"] = str(event["event"]).replace("\r", "\\r").replace("\n", "\\n")
    return event


def _json(_: Any, __: str, event: EventDict) -> bytes:
    return to_json(event)


def to_json(event: Mapping[str, Any]) -> bytes:
    """An event as JSON, whatever values it has."""
    try:
        line = orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z)
    except TypeError:  # lone surrogates, integers beyond 64 bits
        # Strict readers refuse an escaped lone surrogate, so it becomes a question mark.
        line = json.dumps(event, default=str, ensure_ascii=False).encode(errors="replace")
    return line if line.isascii() else _without_line_ends(line)


def _without_line_ends(line: bytes) -> bytes:
    for end in LINE_ENDS:
        line = line.replace(end.encode(), f"\\u{ord(end):04x}".encode())
    return line


def _processors(pretty: bool) -> list[Processor]:
    return [
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        add_context,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _redact,
        *([_one_line] if pretty else []),
    ]


def configure(settings: PlatformSettings) -> None:
    """Configure structlog and the standard library's ``logging`` for this process."""
    pretty = is_pretty(settings)
    level = logging.getLevelNamesMapping()[settings.log_level]
    renderer: Processor = structlog.dev.ConsoleRenderer() if pretty else _json
    structlog.configure(
        processors=[*_processors(pretty), renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Logger,
        cache_logger_on_first_use=True,
    )
    _configure_standard_library(level, pretty)
    logging.captureWarnings(True)
    if not pretty:
        _log_uncaught_exceptions()


def use_stderr() -> None:
    """Write the lines of a command to stderr, so that its output can be piped."""
    if not structlog.is_configured():
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


def mark_as_logged(error: BaseException) -> None:
    """Keep the server from logging an error again, without the ids of its request."""
    error.__dict__[LOGGED] = True


class ServerFilter(logging.Filter):
    """Drops the server's lines that repeat ours: errors, and the steps of a WebSocket."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        repeated = error is not None and LOGGED in error.__dict__
        return not repeated and not str(record.msg).startswith(WEBSOCKET_LINES)


def is_pretty(settings: PlatformSettings) -> bool:
    """Whether a person reads the log in a terminal, perhaps through ``app dev``."""
    interactive = sys.stdout.isatty() or "FORCE_COLOR" in os.environ
    return settings.environment == "development" and interactive


def _configure_standard_library(level: int, pretty: bool) -> None:
    render: Processor = structlog.dev.ConsoleRenderer() if pretty else _text
    handler = OutputHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_processors(pretty),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name in ("uvicorn", "uvicorn.error", "gunicorn.error", "alembic"):
        other = logging.getLogger(name)
        other.handlers.clear()
        other.propagate = True
        other.disabled = False  # by a configuration that ran before
        other.setLevel(logging.NOTSET)
    logging.getLogger("uvicorn.error").filters[:] = [ServerFilter()]
    # The access log replaces Uvicorn's; the HTTP client's loggers repeat every outgoing call, and
    # Alembic lists its plugins in each process.
    logging.getLogger("uvicorn.access").disabled = True
    for chatty in ("httpx2", "httpcore2", "alembic.runtime.plugins"):
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING))
    # SQLAlchemy logs statements, without their values, as INFO; its own default is WARNING.
    statements = logging.INFO if level <= logging.DEBUG else max(level, logging.WARNING)
    logging.getLogger("sqlalchemy.engine").setLevel(statements)


def _log_uncaught_exceptions() -> None:
    """Log exceptions that nobody caught, which Python would print to stderr as plain text."""
    logger = logging.getLogger("app.uncaught")

    def log(kind: Any, error: BaseException | None, traceback: Any, where: str = "") -> None:
        if not issubclass(kind, KeyboardInterrupt | SystemExit):
            event = f"uncaught exception{where}"
            logger.critical(event, exc_info=(kind, error or kind(), traceback))

    # Not over the hooks of a test runner, or of an error tracker.
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = log
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = lambda raised: log(
            raised.exc_type, raised.exc_value, raised.exc_traceback, " in a thread"
        )
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = lambda raised: log(
            raised.exc_type, raised.exc_value, raised.exc_traceback, " in a finalizer"
        )


def _text(logger: Any, name: str, event: EventDict) -> str:
    return _json(logger, name, event).decode()


def request_writer(settings: PlatformSettings) -> Writer:
    """The function that writes an access log line: as fast JSON, or in colour in a terminal."""
    if is_pretty(settings):
        logger = get_logger("app.request")
        return lambda fields: cast(None, logger.log(_level(fields), "request", **fields))
    return _write_request


def _level(fields: dict[str, Any]) -> int:
    return logging.getLevelNamesMapping()[fields.pop("level").upper()]


def _write_request(fields: dict[str, Any]) -> None:
    output.buffer(to_json(fields) + b"\n")


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    configure(settings)
    for hint in variable_hints(type(settings)):
        get_logger(__name__).warning(hint)
