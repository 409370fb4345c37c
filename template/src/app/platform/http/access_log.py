"""What became of each request: to its span at once, to the metrics and the log in batches.

Code that runs once in a while is slow each time, since the CPU has forgotten it: a batch takes a
third of the time. Errors are written down at once.
"""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

from app.platform.http.request_state import Exchange
from app.platform.http.routing import TEMPLATE
from app.platform.observability import logs
from app.platform.observability.metrics import PATH as METRICS
from app.platform.settings import PlatformSettings

# Asked for every few seconds: answered even at the limit, not traced, logged only at DEBUG.
PROBES = frozenset({"/health/live", "/health/ready", "/health/startup", METRICS})
FLUSH_AFTER = 0.2  # seconds that a request waits, at most, to be written down
BATCH = 256  # requests


class Journal:
    """The requests that ended and are not written down yet."""

    def __init__(self, state: Any, settings: PlatformSettings) -> None:
        self._state = state
        self._write = logs.request_writer(settings)
        self._share = settings.access_log_sample_rate
        self._log_probes = settings.log_level == "DEBUG"
        self._ended: list[Exchange] = []
        self._scheduled = False

    def add(self, exchange: Exchange) -> None:
        """Finish the span of a request, and write the request down soon."""
        exchange.ended = monotonic()
        scope, span = exchange.scope, exchange.span
        if span.span_id:
            route, status = scope.get(TEMPLATE, ""), exchange.status or 500
            span.end(scope["method"], route, status, exchange.error)
        self._ended.append(exchange)
        if exchange.status >= 500 or len(self._ended) >= BATCH:
            self.flush()
        elif not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(FLUSH_AFTER, self.flush)

    def flush(self) -> None:
        """Write down the requests that ended since the last time."""
        self._scheduled = False
        ended, self._ended = self._ended, []
        now, clock = datetime.now(UTC), monotonic()
        for exchange in ended:
            scope, status = exchange.scope, exchange.status or 500
            method, route = scope["method"], scope.get(TEMPLATE, "")
            seconds = exchange.ended - exchange.started
            trace_id = exchange.trace_id if exchange.span.sampled else ""
            self._state.metrics.observe(method, route, status, seconds, trace_id)
            if status >= 400 or self._chosen(scope["path"]):
                ended_at = now - timedelta(seconds=clock - exchange.ended)
                self._write(_line(exchange, method, route, status, seconds, ended_at))
        logs.output.flush()

    def _chosen(self, path: str) -> bool:
        """Tell whether a request that went well gets a line in the log."""
        if path in PROBES:
            return self._log_probes
        return self._share >= 1 or random.random() < self._share  # noqa: S311


def _line(
    exchange: Exchange, method: str, route: str, status: int, seconds: float, ended_at: datetime
) -> dict[str, Any]:
    fields = {
        "timestamp": ended_at,
        "level": "info" if status < 500 else "error",
        "event": "request",
        "logger": "app.request",
        "method": method,
        "route": route,
        "path": logs.scrub_path(exchange.scope["path"]),
        "status": status,
        "duration_ms": round(seconds * 1000, 2),
        "request_id": exchange.request_id,
    }
    if exchange.trace_id:
        fields["trace_id"] = exchange.trace_id
        fields["span_id"] = exchange.span_id
    if exchange.user_id:
        fields["user_id"] = exchange.user_id
    return fields
