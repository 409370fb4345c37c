"""The access log: the span, metrics and log line of each request.

Metrics and lines are written in batches: one at a time, this code runs with cold CPU caches and
costs about three times as much. Server errors are written immediately.
"""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

from app.platform.base.paths import route_path
from app.platform.http.request_state import RequestState
from app.platform.http.routing import ROUTE_TEMPLATE_KEY
from app.platform.http.websocket_state import WebSocketState
from app.platform.observability import logs
from app.platform.observability.metrics import PATH as METRICS_PATH
from app.platform.observability.redaction import redact_path
from app.platform.settings import PlatformSettings

# Requested every few seconds: exempt from the limits, not traced, logged only at DEBUG.
PROBE_PATHS = frozenset({"/health/live", "/health/ready", "/health/startup", METRICS_PATH})
FLUSH_INTERVAL = 0.2  # seconds; a finished request is logged within it
BATCH_SIZE = 256  # requests


class AccessLog:
    """Records finished requests, and writes them in batches."""

    def __init__(self, state: Any, settings: PlatformSettings) -> None:
        self._state = state
        self._write = logs.request_writer(settings)
        self._sample_rate = settings.access_log_sample_rate
        self._slow = settings.slow_request_ms / 1000 or float("inf")  # seconds
        self._log_probes = settings.log_level == "DEBUG"
        self._finished: list[RequestState] = []
        self._scheduled = False

    def record(self, request: RequestState) -> None:
        """End the span of a finished request, and queue its metrics and log line."""
        request.ended = monotonic()
        scope, span = request.scope, request.span
        if span.span_id:
            route, status = scope.get(ROUTE_TEMPLATE_KEY, ""), request.status or 500
            span.end(scope["method"], route, status, request.error)
        self._finished.append(request)
        if request.status >= 500 or len(self._finished) >= BATCH_SIZE:
            self.flush()
        elif not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(FLUSH_INTERVAL, self.flush)

    def record_websocket(self, websocket: WebSocketState) -> None:
        """End the span of a WebSocket that has ended, count its handshake, and log the whole."""
        scope, status, span = websocket.scope, websocket.status or 500, websocket.span
        route = scope.get(ROUTE_TEMPLATE_KEY, "")
        if span.span_id:
            span.end("GET", route, status, websocket.error)
        seconds = websocket.handshake_ended - websocket.started
        trace_id = websocket.trace_id if span.sampled else ""
        self._state.metrics.observe("GET", route, status, seconds, trace_id)
        if status >= 400 or self._should_log(route_path(scope), seconds):
            self._write(_websocket_fields(websocket, route, status))
            logs.output.flush()

    def flush(self) -> None:
        """Log and count the requests that finished since the last flush."""
        self._scheduled = False
        finished, self._finished = self._finished, []
        now, monotonic_now = datetime.now(UTC), monotonic()
        for request in finished:
            scope, status = request.scope, request.status or 500
            method, route = scope["method"], scope.get(ROUTE_TEMPLATE_KEY, "")
            seconds = request.ended - request.started
            trace_id = request.trace_id if request.span.sampled else ""
            self._state.metrics.observe(method, route, status, seconds, trace_id)
            if status >= 400 or self._should_log(route_path(scope), seconds):
                ended_at = now - timedelta(seconds=monotonic_now - request.ended)
                self._write(_log_fields(request, method, route, status, seconds, ended_at))
        logs.output.flush()

    def _should_log(self, path: str, seconds: float) -> bool:
        """Whether a successful request is logged: a sample of them, and each slow one."""
        if path in PROBE_PATHS:
            return self._log_probes
        sampled = self._sample_rate >= 1 or random.random() < self._sample_rate  # noqa: S311
        return sampled or seconds >= self._slow


def _log_fields(
    request: RequestState, method: str, route: str, status: int, seconds: float, ended_at: datetime
) -> dict[str, Any]:
    fields = {
        "timestamp": ended_at,
        "level": "info" if status < 500 else "error",
        "event": "request",
        "logger": "app.request",
        "method": method,
        "route": route,
        "path": redact_path(request.scope["path"]),
        "status": status,
        "duration_ms": round(seconds * 1000, 2),
        "request_id": request.request_id,
    }
    if request.trace_id:
        fields["trace_id"] = request.trace_id
        fields["span_id"] = request.span_id
    if request.user_id:
        fields["user_id"] = request.user_id
    if request.log_fields:
        fields |= request.log_fields
    return fields


def _websocket_fields(websocket: WebSocketState, route: str, status: int) -> dict[str, Any]:
    fields = {
        "timestamp": datetime.now(UTC),
        "level": "info" if status < 500 else "error",
        "event": "websocket",
        "logger": "app.request",
        "route": route,
        "path": redact_path(websocket.scope["path"]),
        "status": status,
        "close_code": websocket.close_code,
        "messages_received": websocket.received,
        "messages_sent": websocket.sent,
        "duration_ms": round((monotonic() - websocket.started) * 1000, 2),
        "request_id": websocket.request_id,
    }
    if websocket.trace_id:
        fields |= {"trace_id": websocket.trace_id, "span_id": websocket.span_id}
    if websocket.user_id:
        fields["user_id"] = websocket.user_id
    if websocket.log_fields:
        fields |= websocket.log_fields
    return fields
