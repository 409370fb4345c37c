"""Workers and schedulers that are killed, once, at a given point of their own code.

A file in the folder ``DEATHS`` plans a kill: its name is a job's id or a stage of the scheduler,
and its content is the stage and the victim. A process that reaches that point renames the file and
is killed.
"""

import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.platform.jobs import JobContext, job, publishing, scheduler, store
from app.platform.jobs.runner import Runner

# Points at which a worker is killed, and how often the job's work has been committed in the end.
STAGES = {
    "before the claim": 1,
    "after the claim's commit": 1,
    "after the claim": 1,
    "in the work": 1,
    "after the work's commit": 2,
    "before the outcome": 2,
    "after the outcome's commit": 1,
    "after the outcome": 1,
}
VICTIMS = ("one process", "the whole worker")
HAS_BROKER = hasattr(publishing, "MAX_SCHEDULED")
SCHEDULER_STAGES = ("ticked", "publishing", "published")

TABLES = (
    "CREATE TABLE effects (job uuid PRIMARY KEY)",
    "CREATE TABLE works (job uuid)",
)


def plan(folder: Path, victim: str, stage: str, name: str) -> None:
    """Plan to kill ``victim`` when it reaches ``stage`` of the job or scheduler step ``name``."""
    (folder / name).write_text(f"{stage}\n{victim}")


def count(folder: Path) -> int:
    """Number of kills so far."""
    return len(list(folder.glob("*.dead")))


def kill_point(stage: str, name: UUID | str) -> None:
    """Kill this process if that is planned for ``stage`` of ``name``."""
    file = Path(os.environ.get("DEATHS", "/nonexistent"), str(name))
    try:
        planned, victim = file.read_text().split("\n")
        if planned != stage:
            return
        file.rename(file.with_suffix(".dead"))
    except FileNotFoundError:
        return
    if victim == "one process":
        os.kill(os.getpid(), signal.SIGKILL)
    os.killpg(os.getpgrp(), signal.SIGKILL)


@job(retries=5)
async def work(context: JobContext) -> None:
    """An idempotent effect, and a count of how often the work was done."""
    async with context.transaction() as session:
        values = {"job": context.job_id}
        await session.execute(text("INSERT INTO works VALUES (:job)"), values)
        once = text("INSERT INTO effects VALUES (:job) ON CONFLICT DO NOTHING")
        await session.execute(once, values)
        kill_point("in the work", context.job_id)
    kill_point("after the work's commit", context.job_id)


def with_kill_points(
    function: Callable[..., Awaitable[Any]],
    name: Callable[..., UUID | str],
    before: str = "",
    after: str = "",
) -> Callable[..., Awaitable[Any]]:
    """``function`` with kill points before and after each call."""

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        kill_point(before, name(*args, **kwargs))
        result = await function(*args, **kwargs)
        kill_point(after, name(*args, **kwargs))
        return result

    return wrapper


def add_kill_points(
    owner: Any, function: str, name: Callable[..., UUID | str], *stages: str
) -> None:
    setattr(owner, function, with_kill_points(getattr(owner, function), name, *stages))


execute_claim, succeed = store.execute_claim, store.succeed


async def claim(database: Any, statement: Any, lease: float, **values: Any) -> list[store.Claim]:
    for file in sorted(Path(os.environ["DEATHS"]).iterdir()):  # noqa: ASYNC240 (a few names)
        if file.suffix != ".dead":
            kill_point("before the claim", file.name)  # of whichever job is next
    claims = await execute_claim(database, statement, lease, **values)
    for claimed in claims:
        kill_point("after the claim's commit", claimed.id)
    return claims


async def store_results(database: Any, done: Sequence[tuple[store.Claim, str]]) -> list[bool]:
    """Statements for one job or several, each its own transaction."""
    for claimed, _ in done:
        kill_point("before the outcome", claimed.id)
    stored = await succeed(database, done)
    for claimed, _ in done:
        kill_point("after the outcome's commit", claimed.id)
    return stored


store.execute_claim = claim
store.succeed = store_results
add_kill_points(Runner, "_run", lambda runner, claim, current: claim.id, "after the claim")
add_kill_points(Runner, "run_claimed", lambda runner, claim: claim.id, "", "after the outcome")


@job()
async def no_op(context: JobContext) -> None:
    """Do nothing; it only has to be published."""


@job(cron="* * * * * *")
async def tick(context: JobContext) -> None:
    """Do nothing, every second."""


add_kill_points(store, "claim_tick", lambda *_: "ticked", "", "ticked")
add_kill_points(scheduler, "publish_due", lambda *_: "publishing", "publishing")
add_kill_points(scheduler, "publish_due", lambda *_: "published", "", "published")
