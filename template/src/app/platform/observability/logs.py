"""Logs: one JSON line for each event on stdout, in one shape, whoever logs; coloured in a terminal.

The request's ids are added to every line; secrets and personal values are taken out of every line.
Lines of requests come in batches (middleware.py), everything else is written at once.
"""

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

import orjson
import structlog
from fastapi import FastAPI
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from app.platform.base import context
from app.platform.settings import PlatformSettings, rename_hints

REDACTED = "[redacted]"
SECRET_NAME = re.compile(
    r"passw|secret|token|authorization|cookie|api[-_]?key|credential|private[-_]?key|session[-_]?id"
    r"|e[-_]?mail|phone|dsn|database_url|redis_url",
    re.IGNORECASE,
)
# In free text, such as the message of an exception: logins in URLs, bearer tokens, JSON web
# tokens, `password=...`, e-mail addresses. Strangers write such text, paths above all: nothing in
# it may be looked at again and again, so each word is begun once, and left for good.
SECRET_TEXT = re.compile(
    r"(?<=://)[^\s/@]++(?=@)"
    r"|(?<=bearer )\S+"
    r"|(?<![\w-])(?>(?:[\w-]*?-)?eyJ)[\w-]++\.[\w-]++\.[\w-]*"
    r"|(?<=password=)\S+|(?<=token=)[^\s&]+|(?<=secret=)[^\s&]+|(?<=api_key=)[^\s&]+"
    r"|(?<![\w.+-])[\w.+-]++@[\w-]++(?:\.[\w-]++)++",
    re.IGNORECASE,
)

# What JSON may hold as it is, and some who read the log take for the end of a line.
LINE_ENDS = ("\x85", "\u2028", "\u2029")

STDOUT = 1

Writer = Callable[[dict[str, Any]], None]


class Output:
    """Writes lines to stdout. Each write is a system call, so lines may be kept for the next."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._lock = threading.Lock()

    def keep(self, line: bytes) -> None:
        """Write a line with the next ``flush``."""
        with self._lock:
            self._lines.append(line)

    def write(self, line: bytes) -> None:
        """Write a line now."""
        self.keep(line)
        self.flush()

    def flush(self) -> None:
        with self._lock:
            data = b"".join(self._lines)
            self._lines.clear()
            _write_all(STDOUT, data)


def _write_all(descriptor: int, data: bytes) -> None:
    """Write to a pipe that is full too, or whose reader is gone: logs must not stop the service."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            os.set_blocking(descriptor, True)
        except OSError:
            return


class OutputHandler(logging.Handler):
    """Brings the lines of the standard library's ``logging`` to the same output."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            output.write(self.format(record).encode(errors="replace") + b"\n")
        except Exception:  # noqa: BLE001 (what can't be formatted must not break who logs it)
            self.handleError(record)


class _Logger:
    """What structlog hands finished lines to."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def _write(self, line: bytes | str) -> None:
        output.write((line if isinstance(line, bytes) else line.encode(errors="replace")) + b"\n")

    debug = info = warning = error = critical = exception = msg = _write


output = Output()


def get_logger(name: str) -> FilteringBoundLogger:
    """Return a logger: ``logger.info("order placed", order_id=7)``."""
    return cast(FilteringBoundLogger, structlog.get_logger(name))


def add_context(_: Any, __: str, event: EventDict) -> EventDict:
    """Add the ids of the request or job that the line is about."""
    current = context.current()
    for name in ("request_id", "trace_id", "span_id", "user_id"):
        if value := getattr(current, name):
            event.setdefault(name, value)
    return event


def redact(_: Any, __: str, event: EventDict) -> EventDict:
    """Take out secrets and personal values, by the name of a field or by how they look."""
    return {name: _clean(name, value) for name, value in event.items()}


def _clean(name: str, value: Any) -> Any:
    if SECRET_NAME.search(name) and value not in (None, ""):
        return REDACTED
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {key: _clean(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [_clean("", inner) for inner in value]
    return value


def scrub_path(path: str) -> str:
    """Take out of a path what looks like an e-mail address or a token. Most have neither."""
    return scrub(path) if "@" in path or "eyJ" in path else path


def scrub(text: str) -> str:
    """Take out of a text what looks like a secret or an e-mail address."""
    return SECRET_TEXT.sub(REDACTED, text)


def _one_line(_: Any, __: str, event: EventDict) -> EventDict:
    """Keep whoever is logged about from writing lines of their own. JSON does so by itself."""
    event["event"] = str(event["event"]).replace("\r", "\\r").replace("\n", "\\n")
    return event


def _json(_: Any, __: str, event: EventDict) -> bytes:
    return to_json(event)


def to_json(event: Mapping[str, Any]) -> bytes:
    """Write an event as JSON, whatever is in it: a line that can't be written breaks nothing."""
    try:
        line = orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z)
    except TypeError:  # text that is no Unicode, numbers beyond 64 bits
        return json.dumps(event, default=str).encode()
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
        redact,
        *([_one_line] if pretty else []),
    ]


def configure(settings: PlatformSettings) -> None:
    """Set up both structlog and the standard library's ``logging`` for this process."""
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


def is_pretty(settings: PlatformSettings) -> bool:
    """Tell whether a person is reading, at a terminal: perhaps through ``app dev``."""
    watched = sys.stdout.isatty() or "FORCE_COLOR" in os.environ
    return settings.environment == "development" and watched


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
    # The line of each request says what theirs say; these two repeat every call that goes out.
    logging.getLogger("uvicorn.access").disabled = True
    for chatty in ("httpx2", "httpcore2"):
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING))


def _text(logger: Any, name: str, event: EventDict) -> str:
    return _json(logger, name, event).decode()


def request_writer(settings: PlatformSettings) -> Writer:
    """Return what writes the line of a request: fast, or pretty at a terminal."""
    if is_pretty(settings):
        logger = get_logger("app.request")
        return lambda fields: cast(None, logger.log(_level(fields), "request", **fields))
    return _write_request


def _level(fields: dict[str, Any]) -> int:
    return logging.getLevelNamesMapping()[fields.pop("level").upper()]


def _write_request(fields: dict[str, Any]) -> None:
    output.keep(to_json(fields) + b"\n")


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    configure(settings)
    for hint in rename_hints(type(settings)):
        get_logger(__name__).warning(hint)
