"""Changes of jobs, for observers: what follows a job without asking for its status again."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from fastapi import FastAPI

from app.platform.jobs.status import JobState, Progress

Observer = Callable[[UUID, JobState, Progress | None], Awaitable[None]]


def observe(app: FastAPI, observer: Observer) -> None:
    """Have ``observer`` called after each change of a job that runs in this process is stored.

    The job waits for it. It must not raise.
    """
    app.state.job_observers = (*_observers(app), observer)


async def announce(
    app: FastAPI, job_id: UUID, state: JobState, progress: Progress | None = None
) -> None:
    """Call the observers."""
    for observer in _observers(app):
        await observer(job_id, state, progress)


def _observers(app: FastAPI) -> tuple[Observer, ...]:
    observers: Any = getattr(app.state, "job_observers", ())
    return tuple(observers)
