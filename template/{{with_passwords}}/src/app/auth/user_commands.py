"""Commands that manage users: ``app users create ada@example.com --role admin``."""

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click
from pydantic import BaseModel, SecretStr, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth import audit_log
from app.auth import users as service
from app.auth.accounts import NewEmail
from app.auth.passwords import NewPassword, Passwords
from app.auth.roles import ROLES
from app.platform.base.errors import AppError
from app.platform.data.database import open_database
from app.settings import get_settings

T = TypeVar("T")
Change = Callable[..., Awaitable[None]]
role_argument = click.argument("role", type=click.Choice(sorted(ROLES)))
user_argument = click.argument("user")


class _NewUser(BaseModel):
    email: NewEmail
    password: NewPassword


def add_commands(group: click.Group) -> None:
    """Add ``users`` to the service's commands."""
    group.add_command(users)


@click.group()
def users() -> None:
    """Create, list and change users. USER is an e-mail address or an id."""


@users.command()
@click.argument("email")
@click.option("--role", type=click.Choice(sorted(ROLES)), help="Such as admin.")
@click.password_option(help="Asked for if it is not given.", envvar="NEW_USER_PASSWORD")
def create(email: str, role: str | None, password: str) -> None:
    """Create a user with EMAIL, and print the id."""
    try:
        new = _NewUser(email=email, password=SecretStr(password))
    except ValidationError as error:
        first = error.errors()[0]
        raise click.UsageError(f"{first['loc'][0]}: {first['msg']}.") from None

    async def add(db: AsyncSession) -> Any:
        password_hash = await Passwords(get_settings()).hash(new.password)
        return await service.create(db, _actor(), new.email, password_hash, role)

    click.echo(_in_transaction(add))


@users.command("list")
@click.option("--role", type=click.Choice(sorted(ROLES)), help="Only users with this role.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
def list_(role: str | None, limit: int) -> None:
    """List users, newest first."""
    for user in _in_transaction(lambda db: service.newest(db, limit, role)):
        click.echo(_line(user))


@users.command()
@user_argument
@click.option("--events", default=20, show_default=True, type=click.IntRange(0, 10_000))
def show(user: str, events: int) -> None:
    """Show a user, and the newest entries of the audit log about them."""

    async def read(db: AsyncSession) -> tuple[service.UserRow, Any]:
        found = await service.get(db, await service.find(db, user))
        return found, await audit_log.newest(db, events, str(found.id))

    found, log = _in_transaction(read)
    click.echo(_line(found))
    for event in log:
        click.echo(_event(event))


@users.command()
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--before", type=int, help="Only events with lower ids: the next page.")
def audit(limit: int, before: int | None) -> None:
    """List the audit log, newest first."""
    for event in _in_transaction(lambda db: audit_log.newest(db, limit, before=before)):
        click.echo(_event(event))


@users.command()
@user_argument
@role_argument
def grant(user: str, role: str) -> None:
    """Give USER the role ROLE."""
    _change(user, service.grant, role)


@users.command()
@user_argument
@click.argument("role")
def revoke(user: str, role: str) -> None:
    """Take the role ROLE from USER."""
    _change(user, service.revoke, role)


@users.command()
@user_argument
def disable(user: str) -> None:
    """End the sessions of USER, and refuse their logins."""
    _change(user, service.disable)


@users.command()
@user_argument
def enable(user: str) -> None:
    """Let USER log in again."""
    _change(user, service.enable)


@users.command("reset-password")
@user_argument
def reset_password(user: str) -> None:
    """End the sessions of USER, and send them a link to choose a new password."""
    _change(user, service.reset_password, get_settings())


@users.command("end-sessions")
@user_argument
def end_sessions(user: str) -> None:
    """End all sessions of USER."""
    _change(user, service.end_sessions)


def _change(user: str, change: Change, *arguments: Any) -> None:
    """Make a change, and print the user."""

    async def make(db: AsyncSession) -> service.UserRow:
        user_id = await service.find(db, user)
        await change(db, _actor(), user_id, *arguments)
        return await service.get(db, user_id)

    click.echo(_line(_in_transaction(make)))


def _actor() -> str:
    return f"command:{getpass.getuser()}"


def _line(user: service.UserRow) -> str:
    state = f"disabled {user.disabled_at:%Y-%m-%d %H:%M}" if user.disabled_at else "enabled"
    roles = " ".join(sorted(user.roles)) or "-"
    return f"{user.id}  {user.email}  {roles}  {state}, sessions: {user.sessions}"


def _event(event: audit_log.AuditEvent) -> str:
    details = "".join(f"  {name}={value}" for name, value in event.details.items())
    when = f"{event.at:%Y-%m-%d %H:%M:%S}"
    return f"{event.id}  {when}  {event.actor}  {event.action}  {event.subject}{details}"


def _in_transaction(work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    async def run() -> T:
        async with open_database(get_settings()) as database, database.transaction() as db:
            return await work(db)

    try:
        return asyncio.run(run())
    except AppError as error:
        raise click.ClickException(error.detail) from None
