"""Commands of feature flags: ``flags list``, ``flags set`` and ``flags unset``."""

import asyncio
import getpass
import json
from collections.abc import Awaitable, Callable
from typing import Any

import click
from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from app.platform.base.components import CommandContext
from app.platform.base.errors import AppError
from app.platform.data.database import Database, open_database
from app.platform.data.flag_table import Flag
from app.platform.observability.logs import audit_logger


def add_commands(cli: click.Group) -> None:
    """Add ``flags`` to ``cli``."""
    cli.add_command(flags)


@click.group()
def flags() -> None:
    """List and change feature flags."""


@flags.command("list")
@click.pass_obj
def list_(context: CommandContext) -> None:
    """List all flags of the database."""

    async def read(database: Database) -> None:
        async with database.transaction() as session:
            found = (await session.scalars(select(Flag).order_by(Flag.name))).all()
            for flag in found:
                users = f"  and {', '.join(flag.users)}" if flag.users else ""
                when = flag.changed_at.isoformat(timespec="seconds")
                value = json.dumps(flag.value)
                click.echo(
                    f"{flag.name}  {value}  {flag.percentage} %{users}  {when}  {flag.changed_by}"
                )
            if not found:
                click.echo("There are no flags: the code's defaults hold.", err=True)

    _run(context, read)


@flags.command("set")
@click.argument("name")
@click.argument("value")
@click.option("--percentage", default=100, show_default=True, type=click.IntRange(0, 100))
@click.option("--user", "users", multiple=True, help="Who has it in any case; repeatable.")
@click.pass_obj
def set_(
    context: CommandContext, name: str, value: str, percentage: int, users: tuple[str, ...]
) -> None:
    """Set the flag NAME to VALUE: true, false, a number, or any other text."""
    if not name.strip() or "\x00" in name + value:
        raise click.UsageError("A flag has a name, such as new-prices.")
    row: dict[str, Any] = {"value": _parse(value), "percentage": percentage, "users": list(users)}
    row |= {"changed_by": getpass.getuser(), "changed_at": func.now()}
    statement = insert(Flag).values(name=name, **row)

    async def write(database: Database) -> None:
        async with database.transaction() as session:
            update = statement.on_conflict_do_update(index_elements=["name"], set_=row)
            await session.execute(update)

    _run(context, write)
    audit_logger.info("audit.flag_set", flag=name, value=row["value"], percentage=percentage)


@flags.command()
@click.argument("name")
@click.pass_obj
def unset(context: CommandContext, name: str) -> None:
    """Delete the flag NAME: the code's default applies."""

    async def remove(database: Database) -> None:
        async with database.transaction() as session:
            found = await session.execute(
                delete(Flag).where(Flag.name == name).returning(Flag.name)
            )
            if not found.first():
                raise click.ClickException(f"There is no flag {name}; see `app flags list`.")

    _run(context, remove)
    audit_logger.info("audit.flag_unset", flag=name)


def _parse(value: str) -> bool | int | float | str:
    try:
        parsed: Any = json.loads(value)
    except ValueError:
        return value
    return parsed if isinstance(parsed, bool | int | float | str) else value


def _run(context: CommandContext, work: Callable[[Database], Awaitable[None]]) -> None:
    async def run() -> None:
        async with open_database(context.get_settings()) as database:
            await work(database)

    try:
        asyncio.run(run())
    except AppError as error:
        raise click.ClickException(error.detail) from None
