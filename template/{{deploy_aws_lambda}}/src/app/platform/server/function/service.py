"""The service between two events: started once, kept, and idle whenever it may be frozen.

Lambda freezes the process when an event is answered, for a second or an hour, and may never thaw
it. So one event loop and one set of pools live as long as the process, and nothing is answered
before all that the request started is done: jobs are published, lines and spans are written.
"""

import asyncio
import os
import signal
from contextlib import suppress
from threading import Lock, Thread
from typing import Any, Protocol

from fastapi import FastAPI
from starlette.types import Message

from app.platform.base.components import AppFactory
from app.platform.http.problems import ProblemResponse, problem
from app.platform.observability import tracing
from app.platform.observability.logs import get_logger
from app.platform.observability.redaction import redact_path
from app.platform.server.function import secrets
from app.platform.server.function.events import Answer, Event, body_of, scope_of

RESERVE = 2.0  # seconds of an event's time to answer in, and to write lines and spans
SETTLE = 5.0  # seconds that what a request started besides may still take
LAST_EXPORT = 1.0  # seconds that the spans of an event have to leave

logger = get_logger(__name__)


class Invocation(Protocol):
    """The runtime client's context of an event."""

    def get_remaining_time_in_millis(self) -> int: ...


class Service:
    """One process of the function: it answers one event at a time."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self._runner = asyncio.Runner()
        self._lock = Lock()
        self._stopping = asyncio.Event()
        self._lifespan: asyncio.Task[None] | None = None
        self._standing: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """Start every part; raise what one of them raises."""
        self._runner.run(self._start())

    async def _start(self) -> None:
        started = asyncio.Event()
        self._lifespan = asyncio.create_task(self._live(started))
        waiting = asyncio.create_task(started.wait())
        await asyncio.wait({self._lifespan, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if self._lifespan.done():
            waiting.cancel()
            self._lifespan.result()
        self._standing = asyncio.all_tasks()

    async def _live(self, started: asyncio.Event) -> None:
        async with self.app.router.lifespan_context(self.app):
            started.set()
            await self._stopping.wait()

    def stop(self) -> None:
        """Stop every part when no event is at work: pools are closed, the last spans leave."""
        with self._lock:
            self._runner.run(self._stop())
            self._runner.close()

    async def _stop(self) -> None:
        self._stopping.set()
        if self._lifespan:
            await self._lifespan

    def handle(self, event: Event, invocation: Invocation) -> Event:
        """Answer one event."""
        seconds = invocation.get_remaining_time_in_millis() / 1000 - RESERVE
        with self._lock:
            return self._runner.run(self._handle(event, max(0.1, seconds)))

    async def _handle(self, event: Event, seconds: float) -> Event:
        deadline = asyncio.get_running_loop().time() + seconds
        answer = Answer()
        request = asyncio.create_task(self._request(event, answer))
        await asyncio.wait({request}, timeout=seconds)
        late = request.cancel()  # a job, after the answer; or the service did not keep its time
        with suppress(asyncio.CancelledError):
            await request
        await self._settle(deadline)
        await self._flush()
        if answer.complete:
            return answer.to_event()
        return await _failed(504 if late else 500)

    async def _request(self, event: Event, answer: Answer) -> None:
        """Let the service answer; what it raises after all, it has logged."""
        messages: list[Message] = [
            {"type": "http.request", "body": body_of(event), "more_body": False}
        ]
        disconnected = asyncio.Event()

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await disconnected.wait()  # never: the caller waits for the answer
            return {"type": "http.disconnect"}

        scope = scope_of(event)
        try:
            await self.app(scope, receive, answer.send)
        except Exception:  # noqa: BLE001 (an answer that had begun is incomplete, and says so)
            logger.warning("request ended without an answer", path=redact_path(scope["path"]))

    async def _settle(self, deadline: float) -> None:
        """Wait for what the request left behind, as far as there is time: it would be frozen."""
        loop = asyncio.get_running_loop()
        until = min(deadline, loop.time() + SETTLE)
        while (left := self._left_behind()) and loop.time() < until:
            await asyncio.wait(left, timeout=until - loop.time())
        if left:
            logger.warning("still at work when frozen", tasks=len(left))
        self._standing |= left
        self._standing = {task for task in self._standing if not task.done()}

    def _left_behind(self) -> set[asyncio.Task[Any]]:
        return asyncio.all_tasks() - self._standing - {asyncio.current_task()}

    async def _flush(self) -> None:
        self.app.state.access_log.flush()
        await tracing.flush(LAST_EXPORT)


async def _failed(status: int) -> Event:
    """Return the answer for a service that gave none."""
    code, detail = {
        500: ("internal_error", "Something went wrong on our side."),
        504: ("timeout", "The request took too long and was given up."),
    }[status]
    response: ProblemResponse = problem(status, code, detail)
    answer = Answer()
    start = {"type": "http.response.start", "status": status, "headers": response.raw_headers}
    await answer.send(start)
    await answer.send({"type": "http.response.body", "body": response.body})
    return answer.to_event()


def start(create_app: AppFactory) -> Service:
    """Start the service, and stop it on SIGTERM."""
    # A handler would interrupt whatever is done just then, which may hold a lock that it needs. So
    # a thread waits for the signal, which no other gets.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    secrets.load()
    service = Service(create_app(None))
    service.start()
    Thread(target=_stop_on_sigterm, args=(service,), daemon=True).start()
    return service


def _stop_on_sigterm(service: Service) -> None:
    signal.sigwait({signal.SIGTERM})
    try:
        service.stop()
    except Exception:
        logger.exception("the service did not stop well")
        os._exit(1)
    os._exit(0)  # the wait for the next event can't be asked to stop
