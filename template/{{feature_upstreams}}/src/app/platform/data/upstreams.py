"""Upstreams: the services that this one calls, each with its time-outs, retries and limits.

A call goes through the HTTP client of the process. It is retried only where that is safe, within a
budget and its deadline; a circuit breaker stops calls to a peer that fails, and a bulkhead limits
how many wait for it at once. What the peer does wrong is an ``UpstreamError``: 502, 503 or 504.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

import httpx2
from fastapi import FastAPI
from prometheus_client import Histogram
from pydantic import TypeAdapter
from starlette.requests import HTTPConnection

from app.platform.base import context
from app.platform.base.components import Lifespan
from app.platform.base.tasks import cancel
from app.platform.data.circuit_breaker import CircuitBreaker, State
from app.platform.data.retries import (
    RETRYABLE_STATUSES,
    SAFE_METHODS,
    RetryBudget,
    backoff,
    is_idempotent,
    parse_retry_after,
)
from app.platform.data.upstream_errors import (
    UpstreamError,
    UpstreamFailed,
    UpstreamTimedOut,
    UpstreamUnavailable,
)
from app.platform.data.upstream_metrics import UpstreamMetrics
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings, SettingsError
from app.platform.settings.sources import ERROR_HEADER
from app.platform.settings.upstreams import UpstreamName, UpstreamOverrides, UpstreamPolicy

logger = get_logger(__name__)

# Seconds by which a timer may be early: it counts from the time that the event loop saw last.
TIMER_TOLERANCE = 0.05
LOG_INTERVAL = 60.0  # seconds between log lines about an upstream that fails
# What the HTTP client raises for mistakes of this service.
CLIENT_FAULTS = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)
STATES: tuple[State, ...] = ("closed", "half_open", "open")
ENCODING_HEADERS = ("content-encoding", "content-length", "transfer-encoding")

T = TypeVar("T")


class CircuitOpen(Exception):
    """The upstream fails, and is hardly called: the reason why the service is degraded."""


@dataclass(slots=True)
class _Call:
    """One call: what is sent, and until when (a time of ``time.monotonic``)."""

    method: str
    url: str
    options: dict[str, Any]
    idempotent: bool
    deadline: float
    shortened: bool  # its deadline is that of the current request, before the upstream's time-out


@dataclass(slots=True)
class _Flight:
    """A call whose response several callers wait for."""

    task: "asyncio.Task[httpx2.Response]"
    waiting: int = 0


class Upstream:
    """One upstream, as this process sees it."""

    def __init__(
        self, name: str, policy: UpstreamPolicy, http: httpx2.AsyncClient, metrics: UpstreamMetrics
    ) -> None:
        self.name = name
        self.policy = policy
        self.breaker = CircuitBreaker(
            policy.breaker_window,
            policy.breaker_threshold,
            policy.breaker_reset,
            policy.breaker_probes,
            self._state_changed,
        )
        self._http = http
        self._metrics = metrics
        self._budget = RetryBudget(policy.retry_ratio, policy.retry_burst)
        self._slots = asyncio.Semaphore(policy.max_concurrency)
        self._flights: dict[object, _Flight] = {}
        self._timeout = httpx2.Timeout(
            connect=policy.connect_timeout,
            read=policy.read_timeout,
            write=policy.write_timeout,
            pool=policy.pool_timeout,
        )
        self._durations: dict[str, Histogram] = {}
        self._log_at = 0.0
        metrics.breaker.labels(name).set(0)

    async def get(self, path: str, *, coalesce: bool = False, **options: Any) -> httpx2.Response:
        """GET; with ``coalesce``, identical calls at the same time share one response."""
        return await self.request("GET", path, coalesce=coalesce, **options)

    async def post(self, path: str, **options: Any) -> httpx2.Response:
        """POST; it is retried only if ``headers`` have an ``Idempotency-Key``."""
        return await self.request("POST", path, **options)

    async def put(self, path: str, **options: Any) -> httpx2.Response:
        return await self.request("PUT", path, **options)

    async def patch(self, path: str, **options: Any) -> httpx2.Response:
        return await self.request("PATCH", path, **options)

    async def delete(self, path: str, **options: Any) -> httpx2.Response:
        return await self.request("DELETE", path, **options)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        content: bytes | None = None,
        coalesce: bool = False,
    ) -> httpx2.Response:
        """Call the upstream; ``path`` begins with a slash and is below its base URL.

        Returns a response with a status below 500 other than 429, its body included. Everything
        else raises an ``UpstreamError``.
        """
        if not path.startswith("/"):
            raise ValueError(f"{path!r} is not a path; write it as /invoices/1")
        sent = dict(headers or {})
        options = {"params": params, "headers": sent, "json": json, "content": content}
        start = time.monotonic()
        outcome = "cancelled"
        try:
            make = partial(self._prepare, method.upper(), self.policy.base_url + path, options)
            if coalesce and method.upper() in SAFE_METHODS:
                key = (method, path, repr(params), repr(sorted(sent.items())))
                response = await self._share(key, make)
            else:
                response = await self._call(make())
            outcome = "client_error" if response.is_client_error else "success"
            return response
        except UpstreamError as error:
            outcome = error.outcome
            self._log_failure(error)
            raise
        finally:
            self._observe(outcome, time.monotonic() - start)

    async def with_fallback(self, call: Awaitable[T], fallback: T) -> T:
        """The result of ``call``, or ``fallback`` if the upstream fails."""
        try:
            return await call
        except UpstreamError:
            self._metrics.fallbacks.labels(self.name).inc()
            return fallback

    def _prepare(self, method: str, url: str, options: dict[str, Any]) -> _Call:
        remaining = context.current().remaining()
        shortened = remaining is not None and remaining < self.policy.timeout
        seconds = self.policy.timeout if remaining is None else min(remaining, self.policy.timeout)
        idempotent = is_idempotent(method, options["headers"])
        return _Call(method, url, options, idempotent, time.monotonic() + seconds, shortened)

    async def _share(self, key: object, make: "partial[_Call]") -> httpx2.Response:
        """Join the identical call that is in flight, or start it.

        It has the time-out of the upstream and ends when nobody waits for it any more.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = _Flight(asyncio.create_task(self._call_detached(make)))
            flight.task.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._flights[key] = flight
        else:
            self._metrics.coalesced.labels(self.name).inc()
        flight.waiting += 1
        try:
            async with asyncio.timeout(context.current().remaining()):
                return await asyncio.shield(flight.task)
        except TimeoutError:
            raise UpstreamTimedOut(self.name, "deadline of the request") from None
        finally:
            flight.waiting -= 1
            if flight.task.done() or not flight.waiting:
                flight.task.cancel()
                if self._flights.get(key) is flight:
                    del self._flights[key]

    async def _call_detached(self, make: "partial[_Call]") -> httpx2.Response:
        """Call with the ids of the first caller, but without its deadline."""
        own = context.current()
        with context.bind_request_context(
            request_id=own.request_id, trace_id=own.trace_id, span_id=own.span_id
        ):
            return await self._call(make())

    async def _call(self, call: _Call) -> httpx2.Response:
        retry = 0
        while True:
            try:
                if self.policy.hedge_after is not None and call.method in SAFE_METHODS:
                    return await self._hedge(call, retry, self.policy.hedge_after)
                return await self._attempt(call, retry)
            except UpstreamError as error:
                delay = self._retry_delay(call, error, retry)
                if delay is None:
                    raise
            await asyncio.sleep(delay)
            self._metrics.retries.labels(self.name).inc()
            retry += 1

    def _retry_delay(self, call: _Call, error: UpstreamError, retry: int) -> float | None:
        """Seconds until the next attempt; ``None`` if there is to be none."""
        policy = self.policy
        if not error.retryable or retry >= policy.retries or not self.breaker.allows():
            return None
        delay = backoff(retry, policy.backoff, policy.max_backoff) + (error.retry_after or 0)
        if time.monotonic() + delay >= call.deadline:
            return None
        if not self._budget.withdraw():
            self._metrics.retries_denied.labels(self.name).inc()
            return None
        return delay

    async def _hedge(self, call: _Call, retry: int, seconds: float) -> httpx2.Response:
        """The first response of two attempts, the second of which starts if the first is slow."""
        tasks = {asyncio.create_task(self._attempt(call, retry))}
        try:
            done, tasks = await asyncio.wait(tasks, timeout=seconds)
            if not done and not self._slots.locked() and self._budget.withdraw():
                self._metrics.hedges.labels(self.name).inc()
                tasks.add(asyncio.create_task(self._attempt(call, retry + 1)))
            while True:
                if not done:
                    done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                succeeded = [task for task in done if task.exception() is None]
                if succeeded or not tasks:
                    return (succeeded or list(done))[0].result()
                done = set()
        finally:
            await cancel(*tasks)

    async def _attempt(self, call: _Call, retry: int) -> httpx2.Response:
        if not self.breaker.allows():
            raise self._rejected("circuit_open")
        await self._acquire_slot(call.deadline)
        try:
            permit = self.breaker.acquire()
            if permit is None:
                raise self._rejected("circuit_open")
            if retry == 0:
                self._budget.deposit()
            failed: bool | None = None
            try:
                response = await self._send(call, retry)
                failed = response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
            except httpx2.RequestError as error:
                failed = self._is_peers_failure(call, error)
                raise self._error_of(call, error) from error
            finally:
                self.breaker.record(permit, failed)
        finally:
            self._slots.release()
        if failed or response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            raise self._error_of_status(call, response)
        return response

    async def _acquire_slot(self, deadline: float) -> None:
        if self._slots.locked():
            wait = min(self.policy.max_wait, deadline - time.monotonic())
            try:
                async with asyncio.timeout(wait):
                    await self._slots.acquire()
            except TimeoutError:
                raise self._rejected("bulkhead_full") from None
        else:
            await self._slots.acquire()

    async def _send(self, call: _Call, retry: int) -> httpx2.Response:
        """Send the request and read the response, at most ``max_body`` bytes of it."""
        request = self._http.build_request(
            call.method,
            call.url,
            **call.options,
            timeout=self._timeout,
            extensions={
                "total_timeout": max(0.0, call.deadline - time.monotonic()),
                "span_attributes": {
                    "service.peer.name": self.name,
                    "http.request.resend_count": retry,
                },
            },
        )
        response = await self._http.send(request, stream=True)
        body = bytearray()
        try:
            async for part in response.aiter_bytes():
                body += part
                if len(body) > self.policy.max_body:
                    raise UpstreamFailed(self.name, f"a body of over {self.policy.max_body} bytes")
        finally:
            await response.aclose()
        headers = response.headers.multi_items()
        if "content-encoding" in response.headers:
            headers = [each for each in headers if each[0].lower() not in ENCODING_HEADERS]
        return httpx2.Response(
            response.status_code,
            headers=headers,
            content=bytes(body),
            request=request,
            extensions=response.extensions,
        )

    @staticmethod
    def _is_peers_failure(call: _Call, error: httpx2.RequestError) -> bool | None:
        """Whether the circuit breaker counts an error; ``None``: it says nothing of the peer."""
        if isinstance(error, (httpx2.PoolTimeout, *CLIENT_FAULTS)):
            return None
        cut = call.shortened and time.monotonic() >= call.deadline - TIMER_TOLERANCE
        return None if cut and isinstance(error, httpx2.TimeoutException) else True

    def _error_of(self, call: _Call, error: httpx2.RequestError) -> Exception:
        if isinstance(error, CLIENT_FAULTS):
            return error
        name = type(error).__name__
        if isinstance(error, httpx2.PoolTimeout):  # all connections of this process are in use
            return UpstreamUnavailable(self.name, name)
        # Without a connection nothing was sent, so that any request can be sent again.
        unsent = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
        timed_out = isinstance(error, httpx2.TimeoutException)
        kind = UpstreamTimedOut if timed_out else UpstreamFailed
        return kind(self.name, name, retryable=call.idempotent or unsent)

    def _error_of_status(self, call: _Call, response: httpx2.Response) -> UpstreamError:
        kinds = {429: UpstreamUnavailable, 503: UpstreamUnavailable, 504: UpstreamTimedOut}
        status = response.status_code
        return kinds.get(status, UpstreamFailed)(
            self.name,
            f"status {status}",
            retryable=call.idempotent and status in RETRYABLE_STATUSES,
            retry_after=parse_retry_after(response.headers.get("retry-after")),
        )

    def _rejected(self, reason: str) -> UpstreamUnavailable:
        self._metrics.rejections.labels(self.name, reason).inc()
        return UpstreamUnavailable(self.name, reason, retry_after=self.breaker.remaining)

    def _observe(self, outcome: str, seconds: float) -> None:
        if outcome not in self._durations:
            self._durations[outcome] = self._metrics.durations.labels(self.name, outcome)
        self._durations[outcome].observe(seconds)

    def _log_failure(self, error: UpstreamError) -> None:
        """Log a failure, at most one a minute: an outage must not fill the log."""
        now = time.monotonic()
        if self.breaker.state == "closed" and now >= self._log_at:
            self._log_at = now + LOG_INTERVAL
            logger.warning("upstream failed", upstream=self.name, reason=error.reason)

    def _state_changed(self, state: State) -> None:
        self._metrics.breaker.labels(self.name).set(STATES.index(state))
        log = logger.warning if state == "open" else logger.info
        log("circuit breaker changed", upstream=self.name, state=state)


@dataclass(frozen=True, eq=False)
class UpstreamDefinition:
    """A named upstream and its policy, as the code declares it; a dependency of routes."""

    name: str
    policy: UpstreamPolicy

    async def __call__(self, connection: HTTPConnection) -> Upstream:
        """The upstream for a route: ``Annotated[Upstream, Depends(BILLING)]``."""
        return self.of(connection.app.state.http)

    def of(self, http: httpx2.AsyncClient) -> Upstream:
        """The upstream that uses this client: ``context.http`` of a job, ``app.state.http``."""
        return _running[http].get(self)


class _Upstreams:
    """The upstreams of one running app."""

    def __init__(
        self, overrides: Mapping[str, UpstreamOverrides], http: httpx2.AsyncClient, metrics: Any
    ) -> None:
        self._overrides = overrides
        self._http = http
        self._metrics = UpstreamMetrics(metrics.registry)
        self._upstreams: dict[str, Upstream] = {}

    def get(self, definition: UpstreamDefinition) -> Upstream:
        if definition.name not in self._upstreams:
            policy = _with_overrides(definition, self._overrides)
            found = Upstream(definition.name, policy, self._http, self._metrics)
            self._upstreams[definition.name] = found
        return self._upstreams[definition.name]


_declared: dict[str, UpstreamDefinition] = {}
_running: dict[httpx2.AsyncClient, _Upstreams] = {}


def upstream(name: str, *, base_url: str, **policy: float | None) -> UpstreamDefinition:
    """Declare an upstream, once, at module level; ``policy``: see ``UpstreamPolicy``."""
    name = TypeAdapter(UpstreamName).validate_python(name)
    if name in _declared:
        raise ValueError(f"the upstream {name} is declared twice; import it from where it is")
    values = {"base_url": base_url, **policy}
    _declared[name] = UpstreamDefinition(name, UpstreamPolicy.model_validate(values))
    return _declared[name]


def _with_overrides(
    definition: UpstreamDefinition, overrides: Mapping[str, UpstreamOverrides]
) -> UpstreamPolicy:
    override = overrides.get(definition.name)
    changes = override.model_dump(exclude_unset=True) if override else {}
    return definition.policy.model_copy(update=changes)


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    overrides: Mapping[str, UpstreamOverrides] = settings.upstreams
    if unknown := sorted(set(overrides) - set(_declared)):
        known = ", ".join(sorted(_declared)) or "none"
        raise SettingsError(
            f"{ERROR_HEADER}\n  UPSTREAMS: nothing declares {unknown[0]}; declared are: {known}"
        )

    async def check(definition: UpstreamDefinition) -> None:
        if definition.of(app.state.http).breaker.state != "closed":
            raise CircuitOpen

    for definition in _declared.values():
        ping = partial(check, definition)
        app.state.readiness.add(f"upstream_{definition.name}", ping, critical=False)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        http = app.state.http
        _running[http] = _Upstreams(overrides, http, app.state.metrics)
        for definition in _declared.values():
            definition.of(http)
        try:
            yield
        finally:
            del _running[http]

    return lifespan
