"""The service of a game day: itself, with a route that every request of the game day calls.

``tools/game_day.py`` mounts it into the containers, where ``python game_day_release.py serve`` is
``app serve``. ``GAME_DAY=bad`` makes it a release with a bug, ``GAME_DAY=long`` one with a long
transaction. The modules of ``tools/game-day`` have more jobs, and routes in ``router``.
"""

import asyncio
import importlib
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from fastapi import APIRouter, FastAPI
from sqlalchemy import text

from app import cli, main
from app.platform.data.database import SessionDep
from app.platform.settings import PlatformSettings

CPU = 0.02  # seconds of work that a request does without waiting
LONG = 4  # seconds of the long transaction
MODULES = Path("/game-day")
LOCK = text("SELECT pg_advisory_xact_lock_shared(1)")  # blocked by a session that holds lock 1

router = APIRouter(prefix="/game-day", include_in_schema=False)


@router.get("/work")
async def work(session: SessionDep) -> str:
    """A statement, and some work on the CPU."""
    if os.environ.get("GAME_DAY") == "bad":
        raise ZeroDivisionError("the bug of this release")
    await session.execute(LOCK)
    if os.environ.get("GAME_DAY") == "long":
        await asyncio.sleep(LONG)
    end = time.thread_time() + CPU
    while time.thread_time() < end:
        pass
    return "done"


# At import, which child processes of a worker repeat.
sys.path.append(str(MODULES))
modules = [importlib.import_module(path.stem) for path in sorted(MODULES.glob("*.py"))]


def setup(app: FastAPI, _: PlatformSettings) -> None:
    for module in (sys.modules[__name__], *modules):
        app.include_router(module.router)


if __name__ == "__main__":
    main.COMPONENTS = (SimpleNamespace(setup=setup), *main.COMPONENTS)
    cli.main()
