"""Helpers of the administrators' commands: the actor, the transaction, and ``audit``."""

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.auth import audit_log
from app.platform.auth.audit_log import Actor
from app.platform.base.components import CommandContext
from app.platform.base.errors import AppError
from app.platform.data.database import open_database
from app.platform.settings import PlatformSettings

T = TypeVar("T")


def actor() -> Actor:
    """The actor of this command: the user's name on this machine."""
    return Actor(f"command:{getpass.getuser()}")


def settings() -> PlatformSettings:
    """The settings of the service whose command this is."""
    context: CommandContext = click.get_current_context().find_root().obj
    return context.get_settings()


def in_transaction(work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """The result of ``work`` in a transaction; an ``AppError`` ends the command with its text."""
    given = settings()

    async def run() -> T:
        async with open_database(given) as database, database.transaction() as db:
            return await work(db)

    try:
        return asyncio.run(run())
    except AppError as error:
        raise click.ClickException(error.detail) from None


@click.command()
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--before", type=int, help="Only events with lower ids: the next page.")
def audit(limit: int, before: int | None) -> None:
    """List the audit log, newest first."""
    for event in in_transaction(lambda db: audit_log.list_events(db, limit, before=before)):
        click.echo(event_line(event))


def event_line(event: Any) -> str:
    """An event as one line of a terminal."""
    details = "".join(f"  {name}={value}" for name, value in event.details.items())
    when = f"{event.at:%Y-%m-%d %H:%M:%S}"
    return f"{event.id}  {when}  {event.actor}  {event.action}  {event.subject}{details}"
