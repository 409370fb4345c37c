"""The consumer of a worker: claims due jobs in batches, as many as it can start, and starts them.

A queue only wakes it. Whatever the message says, the consumer takes the jobs that have waited
longest, until none is due.
"""

import asyncio
from contextlib import suppress

from fastapi import FastAPI

from app.platform.jobs import store
from app.platform.jobs.attempt import error_summary
from app.platform.jobs.runner import Runner
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

RECONNECT_DELAY = 2.0  # seconds

logger = get_logger(__name__)


class Consumer:
    """Runs due jobs, at most ``concurrency`` at a time. Created within the event loop."""

    def __init__(
        self, app: FastAPI, settings: PlatformSettings, runner: Runner, concurrency: int
    ) -> None:
        self._app = app
        self._lease = settings.jobs_lease
        self._runner = runner
        self._concurrency = concurrency
        self._running: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()  # a job has finished, or this stops
        self._draining = asyncio.Lock()
        self._stopping = False

    async def drain(self) -> None:
        """Claim and start jobs until none is due or this stops, through outages of Postgres.

        If there are more jobs than slots, another worker is woken, once.
        """
        async with self._draining:  # each drain counts the free slots before it claims
            await self._drain()

    async def _drain(self) -> None:
        passed_on = False
        while not self._stopping:
            self._changed.clear()
            if free := self._concurrency - len(self._running):
                try:
                    claims = await store.claim_due(self._runner.database, free, self._lease)
                except Exception as error:  # noqa: BLE001 (outages raise many types)
                    logger.warning("jobs not claimed", error=error_summary(error))
                    await self._wait_for_change(RECONNECT_DELAY)
                    continue
                for claim in claims:
                    task = asyncio.create_task(self._runner.run_claimed(claim))
                    self._running.add(task)
                    task.add_done_callback(self._finished)
                if len(claims) < free:
                    return
                if not passed_on:
                    await self._pass_on(claims[-1])
                    passed_on = True
            else:
                await self._changed.wait()

    async def _pass_on(self, claim: store.Claim) -> None:
        try:
            await self._app.state.wake_another(claim.id)
        except Exception as error:  # noqa: BLE001 (outages raise many types)
            logger.warning("no other worker woken", error=error_summary(error))

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._changed.set()

    async def _wait_for_change(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    def stop(self) -> None:
        """Start no more jobs; callable from any thread and from signal handlers."""
        self._stopping = True
        self._loop.call_soon_threadsafe(self._changed.set)

    async def finish(self) -> None:
        """Wait until all running jobs have finished or been released."""
        await asyncio.gather(*self._running, return_exceptions=True)
