"""Commands of the background jobs: ``worker``, ``scheduler`` and ``jobs``."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar
from uuid import UUID

import click

from app.platform.base import heartbeat
from app.platform.base.components import CommandContext
from app.platform.data.database import Database, ReadSession, open_database
from app.platform.jobs import store
from app.platform.jobs.scheduler import run as run_scheduler
from app.platform.jobs.status import JobRecord
from app.platform.jobs.transport import run_worker
from app.platform.settings import PlatformSettings

BACKGROUND_PROCESSES = ("worker",)  # each runs a scheduler, unless WORKER_SCHEDULER=false

T = TypeVar("T")


def add_commands(cli: click.Group) -> None:
    """Add ``worker``, ``scheduler`` and ``jobs`` to ``cli``."""
    for command in (worker, scheduler, jobs):
        cli.add_command(command)


@click.command()
@click.option("--health", is_flag=True, help="Check that it is running; exit code 0 or 1.")
@click.pass_obj
def worker(context: CommandContext, health: bool) -> None:
    """Run background jobs, and the scheduler, until SIGTERM."""
    if health:
        sys.exit(heartbeat.main("worker"))
    sys.exit(run_worker(context.get_settings(), context.create_app))


@click.command()
@click.option("--health", is_flag=True, help="Check that it is running; exit code 0 or 1.")
@click.pass_obj
def scheduler(context: CommandContext, health: bool) -> None:
    """Run a scheduler alone until SIGTERM; workers also do, unless WORKER_SCHEDULER=false."""
    if health:
        sys.exit(heartbeat.main("scheduler"))
    asyncio.run(run_scheduler(context.get_settings(), context.create_app))


@click.group()
def jobs() -> None:
    """List jobs and replay dead ones."""


@jobs.command("list")
@click.option("--dead", "state", flag_value="dead", default=True, help="Dead jobs (the default).")
@click.option("--queued", "state", flag_value="queued", help="Queued jobs.")
@click.option("--running", "state", flag_value="running", help="Running jobs.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@click.pass_obj
def list_(context: CommandContext, state: str, limit: int) -> None:
    """List the newest jobs, by default the dead ones."""
    found = _with_database(
        context.get_settings(), lambda database: list_jobs(database, state, limit)
    )
    for status in found:
        when = (status.finished_at or status.created_at).isoformat(timespec="seconds")
        click.echo(f"{status.id}  {when}  {status.name}  {status.attempts}x  {status.error or ''}")
    if not found:
        click.echo(f"There are no {state} jobs.", err=True)


@jobs.command()
@click.argument("job_id", type=click.UUID, required=False)
@click.option("--all", "all_jobs", is_flag=True, help="Replay all dead jobs.")
@click.pass_obj
def replay(context: CommandContext, job_id: UUID | None, all_jobs: bool) -> None:
    """Enqueue a dead job again, with all its retries."""
    if (job_id is None) != all_jobs:
        raise click.UsageError("Give the id of a dead job, or --all.")
    count = _with_database(context.get_settings(), lambda database: replay_dead(database, job_id))
    if job_id and not count:
        raise click.ClickException(f"There is no dead job {job_id}.")
    click.echo(f"Jobs enqueued again: {count}")


async def list_jobs(database: Database, state: str = "dead", limit: int = 50) -> list[JobRecord]:
    """The newest jobs in ``state``."""
    rows = await ReadSession(database).all(store.select_newest(state, limit))
    return [JobRecord.model_validate(row) for row in rows]


async def replay_dead(database: Database, job_id: UUID | None = None) -> int:
    """Enqueue one dead job, or all of them, again; return how many."""
    async with database.transaction() as session:
        return await store.replay(session, job_id)


def _with_database(settings: PlatformSettings, work: Callable[[Database], Awaitable[T]]) -> T:
    async def run() -> T:
        async with open_database(settings) as database:
            return await work(database)

    return asyncio.run(run())
