"""The watchdog of a worker: a thread that no job can block, with an event loop and a connection.

It renews the leases of the running jobs, names a job that blocks the event loop in the log, and
ends the process when a job or the shutdown hangs: threads and blocking calls cannot be cancelled.
"""

import asyncio
import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from app.platform.base.threads import exit_process, track_calls
from app.platform.data.database import Database, open_database
from app.platform.jobs import store
from app.platform.jobs.attempt import error_summary
from app.platform.jobs.outcomes import Outcomes
from app.platform.jobs.store import Claim
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

CHECK_INTERVAL = 1.0  # seconds
BLOCKED_AFTER = 5.0  # seconds without an answer of the event loop, until the log names the job
# A job's hard limit: seconds after its timeout, if it is still running.
HARD_LIMIT_MARGIN = 10.0
# Seconds after `worker_shutdown_timeout` until jobs that are still running are released, and until
# the process ends in any case. Cloud Run kills after 10 s, of which jobs there have 5.
RELEASE_MARGIN, EXIT_MARGIN = 4.0, 10.0
CLOSE_TIMEOUT = 5.0  # seconds
RECORD_TIMEOUT = 3.0  # seconds to record the outcomes of the jobs of a process that ends
# Seconds until a process ends whose watchdog cannot run because a job holds the interpreter lock;
# at least the lease, after which the job may run elsewhere.
MIN_FREEZE_LIMIT = 30.0
STDERR = 2

logger = get_logger(__name__)


class JobHung(TimeoutError):
    """The job has exceeded its hard limit, and its worker was ended."""


class LeaseLost(Exception):
    """The lease has expired: another worker may run the job, and this attempt does not count."""


class Running:
    """An attempt at a job that is running in this process."""

    task: "asyncio.Task[Any] | None" = None

    def __init__(self, claim: Claim, timeout: float) -> None:
        self.claim = claim
        self.timeout = timeout
        self.hard_limit = time.monotonic() + timeout + HARD_LIMIT_MARGIN
        # Its result: why the job has to end.
        self.interrupted: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._calls: set[Future[Any]] = set()

    def interrupt(self, reason: Exception) -> None:
        """End the job, from its event loop; the first reason counts."""
        if not self.interrupted.done():
            self.interrupted.set_result(reason)

    def track_calls(self) -> None:
        """Attribute the calls in threads that the current task makes to this attempt."""
        self._calls = track_calls()

    def calls(self) -> list["asyncio.Future[Any]"]:
        """The calls in threads that are still running: cancelling the job does not end them."""
        return [asyncio.wrap_future(call) for call in list(self._calls)]


class Watchdog:
    """Watches the jobs of the event loop that starts it.

    ``heartbeat``: called every second or so while the process works. Without it, this is not a
    worker's process, and the watchdog only renews leases.
    """

    def __init__(
        self, settings: PlatformSettings, heartbeat: Callable[[], None] | None = None
    ) -> None:
        self._settings = settings
        self._heartbeat = heartbeat
        self._running: dict[int, Running] = {}
        self._shutdown_ends = float("inf")
        self._warned = False

    def start(self) -> None:
        """Start watching the running event loop, whose thread this is."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._answered = self._unblocked = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._started: Future[None] = Future()
        self._thread.start()
        self._started.result()

    def close(self) -> None:
        """Stop watching."""
        self._own_loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(CLOSE_TIMEOUT)
        if self._heartbeat:
            faulthandler.cancel_dump_traceback_later()

    @contextmanager
    def watch(self, claim: Claim, timeout: float) -> Iterator[Running]:
        """Keep the lease of an attempt, which may take ``timeout`` seconds, within the block."""
        running = Running(claim, timeout)
        self._running[id(running)] = running
        try:
            yield running
        finally:
            del self._running[id(running)]

    def running(self) -> list[Running]:
        """The attempts within a ``watch`` block."""
        return list(self._running.values())

    def limit_shutdown(self) -> None:
        """End the process ``EXIT_MARGIN`` after ``worker_shutdown_timeout``, if it still runs."""
        ends = time.monotonic() + self._settings.worker_shutdown_timeout
        self._shutdown_ends = min(self._shutdown_ends, ends)

    def _run(self) -> None:
        try:
            asyncio.run(self._watch())
        except Exception:
            logger.exception("watchdog failed")
            if self._heartbeat:  # nobody would renew the leases
                exit_process(os.EX_SOFTWARE)

    async def _watch(self) -> None:
        self._own_loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        if self._heartbeat:  # before the first job, which may be the one that holds the lock
            self._limit_freeze()
        self._started.set_result(None)
        async with open_database(self._settings) as database:
            self._outcomes = Outcomes(database, self._settings)
            renewing = asyncio.create_task(self._renew_leases(database))
            try:
                while not self._closing.is_set():
                    with suppress(RuntimeError):  # it has closed
                        self._loop.call_soon_threadsafe(self._answer)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._closing.wait(), CHECK_INTERVAL)
                    if self._heartbeat:
                        await self._check(self._heartbeat)
            finally:
                renewing.cancel()

    def _answer(self) -> None:
        now = time.monotonic()
        if now - self._answered > BLOCKED_AFTER:
            self._unblocked = now
        self._answered = now

    async def _renew_leases(self, database: Database) -> None:
        lease = self._settings.jobs_lease
        while True:
            await asyncio.sleep(lease / 3)
            try:
                await self._renew(database, lease)
            except Exception as error:  # noqa: BLE001 (outages raise many types)
                # No other worker can claim a job while the database is unavailable.
                logger.warning("leases not renewed", error=error_summary(error))

    async def _renew(self, database: Database, lease: float) -> None:
        if not (running := list(self._running.values())):
            return
        lost = [each for each in running if not await store.renew(database, each.claim, lease)]
        for each in lost:
            self._loop.call_soon_threadsafe(each.interrupt, LeaseLost())

    def _limit_freeze(self) -> None:
        """End the process unless this is called again in time, which needs the interpreter lock."""
        limit = max(MIN_FREEZE_LIMIT, self._settings.jobs_lease)
        faulthandler.dump_traceback_later(limit, exit=True, file=STDERR)

    async def _check(self, heartbeat: Callable[[], None]) -> None:
        self._limit_freeze()
        now = time.monotonic()
        blocked = now - self._answered > BLOCKED_AFTER
        if hung := self._over_hard_limit(now, blocked):
            for each in hung:
                self._log("job exceeded its hard limit; the worker ends", [each])
            await self._end(os.EX_SOFTWARE, hung)
        late = now - self._shutdown_ends
        if late > (RELEASE_MARGIN if self._running else EXIT_MARGIN):
            if self._running:
                self._log("jobs did not stop; the worker ends", list(self._running.values()))
            await self._end(os.EX_OK, [])
        if blocked and not self._warned:
            self._log("a job blocks the event loop", self._blocking())
        self._warned = blocked
        # While the loop is blocked, the hard limit of a job decides whether that is too long.
        if self._running or not blocked:
            heartbeat()

    def _over_hard_limit(self, now: float, blocked: bool) -> list[Running]:
        """Jobs over their hard limit, but for those that another one kept from being cancelled."""
        suspects = self._blocking() if blocked else list(self._running.values())
        since = 0.0 if blocked else self._unblocked + HARD_LIMIT_MARGIN
        over = [each for each in suspects if now > max(each.hard_limit, since)]
        return over if not blocked or len(over) == len(suspects) else []

    def _blocking(self) -> list[Running]:
        """The job that blocks the event loop; all that are running if it is not known."""
        running = list(self._running.values())
        task = asyncio.current_task(self._loop)
        return [each for each in running if each.task is task] or running

    def _log(self, event: str, jobs: list[Running]) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        logger.error(
            event,
            job=", ".join(each.claim.name for each in jobs),
            job_id=", ".join(str(each.claim.id) for each in jobs),
            stack="".join(traceback.format_stack(frame)),
        )

    async def _end(self, code: int, hung: list[Running]) -> NoReturn:
        """Fail ``hung``, release all other jobs, and end the process."""
        try:
            async with asyncio.timeout(RECORD_TIMEOUT):
                for each in list(self._running.values()):
                    if each in hung:
                        message = f"The job did not end {HARD_LIMIT_MARGIN:g} s after its timeout"
                        error = JobHung(f"{message} of {each.timeout:g} s.")
                        await self._outcomes.fail(each.claim, error)
                    else:
                        await self._outcomes.release(each.claim)
        finally:
            exit_process(code)
