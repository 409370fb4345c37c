"""The service of a game day: itself, with a route that every request of the game day calls.

``tools/game_day.py`` mounts it into the containers, where ``python game_day_release.py serve`` is
``app serve``. ``GAME_DAY=bad`` makes it a release with a bug.
"""

import os
import time
from types import SimpleNamespace

from fastapi import APIRouter, FastAPI
from sqlalchemy import text

from app import cli, main
from app.platform.data.database import SessionDep
from app.platform.jobs import JobContext, Jobs, job
from app.platform.settings import PlatformSettings

CPU = 0.02  # seconds of work that a request does without waiting
LOCK = text("SELECT pg_advisory_xact_lock_shared(1)")  # blocked by a session that holds lock 1

router = APIRouter(prefix="/game-day", include_in_schema=False)


@job(name="game_day.poison", retries=0)
async def poison(_: JobContext) -> None:
    """A job that fails at each attempt."""
    raise ValueError("a poison job")


@router.get("/work")
async def work(session: SessionDep) -> str:
    """A statement, and some work on the CPU."""
    if os.environ.get("GAME_DAY") == "bad":
        raise ZeroDivisionError("the bug of this release")
    await session.execute(LOCK)
    end = time.thread_time() + CPU
    while time.thread_time() < end:
        pass
    return "done"


@router.post("/poison", status_code=202)
async def enqueue_poison(jobs: Jobs) -> None:
    await jobs.enqueue(poison)


def setup(app: FastAPI, _: PlatformSettings) -> None:
    app.include_router(router)


if __name__ == "__main__":
    main.COMPONENTS = (SimpleNamespace(setup=setup), *main.COMPONENTS)
    cli.main()
