"""Outgoing HTTP: one client per process, with a total time-out, a connection limit and deadlines.

A request, with its response, takes ``HTTP_TIMEOUT`` in total, or its own ``timeout=``, and never
longer than what is left of the current request's or job's deadline. The time-outs of the phases
alone would not do: each byte of a slow response starts them again. Only ``REQUEST_ID_HOSTS`` get
the request id and, from ``tracing``, the trace headers. There are no automatic retries: only the
caller knows whether a request is idempotent.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Annotated, Any

import httpx2
from fastapi import Depends, FastAPI, Request

from app.platform import about
from app.platform.base import context
from app.platform.base.components import Lifespan
from app.platform.observability import metrics, tracing
from app.platform.observability.telemetry import gauge
from app.platform.settings import PlatformSettings

POOL_SIZE = gauge("http_pool_connections", "Maximum outgoing HTTP connections.")
POOL_USED = gauge("http_pool_connections_used", "Outgoing HTTP connections in use.")


async def _client(request: Request) -> httpx2.AsyncClient:
    client: httpx2.AsyncClient = request.app.state.http
    return client


HttpClientDep = Annotated[httpx2.AsyncClient, Depends(_client)]


class DeadlineClient(httpx2.AsyncClient):
    """A client whose requests, with their redirects and responses, end at a deadline."""

    total = 0.0  # seconds

    async def send(
        self,
        request: httpx2.Request,
        *,
        stream: bool = False,
        auth: Any = httpx2.USE_CLIENT_DEFAULT,
        follow_redirects: Any = httpx2.USE_CLIENT_DEFAULT,
    ) -> httpx2.Response:
        deadline = self._deadline(request)
        async with _until(deadline, request):
            response = await super().send(
                request, stream=stream, auth=auth, follow_redirects=follow_redirects
            )
        if stream:
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _BoundedStream(response.stream, deadline, request)
        return response

    def _deadline(self, request: httpx2.Request) -> float | None:
        """The time of the event loop at which the request ends.

        After the extension ``total_timeout``, its own time-out or the total, in seconds.
        """
        phases = request.extensions.get("timeout", {})
        given = [seconds for seconds in phases.values() if seconds is not None]
        own = max(given, default=None)
        total = self.total if phases == self.timeout.as_dict() else own
        total = request.extensions.get("total_timeout", total)
        seconds = [each for each in (total, context.current().remaining()) if each is not None]
        return asyncio.get_running_loop().time() + min(seconds) if seconds else None


class _BoundedStream(httpx2.AsyncByteStream):
    """The body of a response, which ends at a deadline."""

    def __init__(
        self, stream: httpx2.AsyncByteStream, deadline: float | None, request: httpx2.Request
    ) -> None:
        self._stream = stream
        self._deadline = deadline
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = aiter(self._stream)
        while True:
            async with _until(self._deadline, self._request):
                part = await anext(parts, None)
            if part is None:
                return
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def _until(deadline: float | None, request: httpx2.Request) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        detail = "The response was not complete at the deadline."
        raise httpx2.ReadTimeout(detail, request=request) from None
    except AttributeError as error:
        if not closed_at_once(error):
            raise
        raise httpx2.ConnectError("The peer closed the connection.", request=request) from error


def closed_at_once(error: AttributeError) -> bool:
    """Whether the peer has closed a new connection: AnyIO asks ``None`` of uvloop for the peer."""
    return error.obj is None and error.name == "getpeername"


def matches_host(host: str, patterns: list[str]) -> bool:
    """Whether a host is one of ``patterns``; ``*.example.com`` stands for every subdomain."""
    return any(
        host.endswith(pattern[1:]) if pattern.startswith("*.") else pattern in (host, "*")
        for pattern in patterns
    )


@cache
def certificates() -> ssl.SSLContext:
    """The certificate authorities to trust: reading them takes 30 ms, so once a process."""
    return httpx2.create_ssl_context()


def create_client(settings: PlatformSettings) -> httpx2.AsyncClient:
    """A client that connects at first use."""

    async def add_request_id(request: httpx2.Request) -> None:
        """Identify the request to services of ours, and to nobody else, redirects included."""
        request_id = context.current().request_id
        if request_id and matches_host(request.url.host, settings.request_id_hosts):
            request.headers["X-Request-ID"] = request_id
        else:
            request.headers.pop("X-Request-ID", None)

    connect, read = settings.http_connect_timeout, settings.http_read_timeout
    client = DeadlineClient(
        verify=certificates(),
        # Waiting for a free connection counts as connecting.
        timeout=httpx2.Timeout(connect=connect, pool=connect, read=read, write=read),
        limits=httpx2.Limits(max_connections=settings.http_max_connections),
        headers={"User-Agent": f"{about.NAME}/{about.version()}"},
        event_hooks={"request": [add_request_id]},
    )
    client.total = settings.http_timeout
    return client


def connections(client: httpx2.AsyncClient) -> tuple[int, int]:
    """The number of connections in use, and the maximum of the pool."""
    pool = client._transport._pool  # type: ignore[attr-defined]
    return sum(not each.is_idle() for each in pool.connections), pool._max_connections


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    def sample() -> None:
        used, maximum = connections(app.state.http)
        POOL_USED.set(used)
        POOL_SIZE.set(maximum)

    metrics.on_sample(app, sample)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with create_client(settings) as app.state.http:
            is_own = partial(matches_host, patterns=settings.request_id_hosts)
            tracing.instrument_http(app.state.http, is_own)
            yield

    return lifespan
