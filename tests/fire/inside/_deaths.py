"""Jobs, and a worker and scheduler that are killed at a given point of their own code, once.

A file in the folder ``DEATHS`` says who is to die, and where: it is named after a job's id, or
after a stage of the scheduler. Whoever comes to that point takes the file away, and is killed.
"""

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.platform.jobs import JobContext, job, store
from app.platform.jobs.runner import Runner
from app.platform.jobs.transport import Transport

# Where a worker dies on the way of one job, and how often the job's work is committed then.
STAGES = {
    "before the claim": 1,
    "before the claim's commit": 1,
    "after the claim": 1,
    "in the work": 1,
    "after the work's commit": 2,
    "before the mark": 2,
    "before the mark's commit": 2,
    "after the mark": 1,
}
WHO = ("one process", "the whole worker")
SCHEDULER_STAGES = ("ticked", "taken", "published")

TABLES = (
    "CREATE TABLE effects (job uuid PRIMARY KEY)",
    "CREATE TABLE works (job uuid)",
)


def doom(folder: Path, who: str, stage: str, victim: str) -> None:
    """Decide that ``who`` works on ``victim`` is killed at ``stage``."""
    (folder / victim).write_text(f"{stage}\n{who}")


def dead(folder: Path) -> int:
    """Return how many were killed."""
    return len(list(folder.glob("*.dead")))


def here(stage: str, victim: UUID | str) -> None:
    """Be killed here, if that was decided."""
    mark = Path(os.environ.get("DEATHS", "/nowhere"), str(victim))
    try:
        wanted, who = mark.read_text().split("\n")
        if wanted != stage:
            return
        mark.rename(mark.with_suffix(".dead"))
    except FileNotFoundError:
        return
    if who == "one process":
        os.kill(os.getpid(), signal.SIGKILL)
    os.killpg(os.getpgrp(), signal.SIGKILL)


@job(retries=5)
async def work(context: JobContext) -> None:
    """Do what must be done once, and count how often it was done."""
    async with context.transaction() as session:
        values = {"job": context.job_id}
        await session.execute(text("INSERT INTO works VALUES (:job)"), values)
        once = text("INSERT INTO effects VALUES (:job) ON CONFLICT DO NOTHING")
        await session.execute(once, values)
        here("in the work", context.job_id)
    here("after the work's commit", context.job_id)


def around(
    function: Callable[..., Awaitable[Any]],
    victim: Callable[..., UUID | str],
    before: str = "",
    after: str = "",
) -> Callable[..., Awaitable[Any]]:
    """Let processes die before and after a call of ``function``."""

    async def called(*args: Any, **named: Any) -> Any:
        here(before, victim(*args, **named))
        result = await function(*args, **named)
        here(after, victim(*args, **named))
        return result

    return called


def deadly(owner: Any, name: str, victim: Callable[..., UUID | str], *stages: str) -> None:
    setattr(owner, name, around(getattr(owner, name), victim, *stages))


deadly(
    store,
    "claim",
    lambda session, id_, lease: id_,
    *("before the claim", "before the claim's commit"),
)
deadly(Runner, "_run", lambda runner, claim, current: claim.id, "after the claim")
deadly(
    store,
    "succeed",
    lambda session, claimed, result: claimed.id,
    *("before the mark", "before the mark's commit"),
)
deadly(Runner, "run", lambda runner, id_: id_, "", "after the mark")


@job()
async def errand(context: JobContext) -> None:
    """Be something to publish."""


@job(cron="* * * * * *")
async def tick(context: JobContext) -> None:
    """Run each second."""


deadly(store, "claim_tick", lambda *_: "ticked", "", "ticked")
deadly(store, "claim_unpublished", lambda *_: "taken", "", "taken")
deadly(Transport, "publish", lambda *_: "published", "", "published")
