"""Commands that manage users: ``app users create ada@example.com --role admin``."""

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from pydantic import BaseModel, SecretStr, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.auth import audit_log
from app.platform.auth import users as service
from app.platform.auth.account_mails import AccountMails
from app.platform.auth.accounts import NewEmail
from app.platform.auth.grants import Roles
from app.platform.auth.passwords import NewPassword, Passwords
from app.platform.base.components import CommandContext
from app.platform.base.errors import AppError
from app.platform.data.database import open_database
from app.platform.data.mail import MailTemplates
from app.platform.settings import PlatformSettings

T = TypeVar("T")
Change = Callable[..., Awaitable[None]]
user_argument = click.argument("user")


@dataclass(frozen=True, slots=True)
class Handed:
    """What the service hands over: its roles, and the templates of its mails."""

    roles: Roles
    templates: MailTemplates


class _RoleName(click.ParamType[str]):
    """The name of one of the service's roles."""

    name = "role"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        names = sorted(_handed().roles)
        if value not in names:
            self.fail(f"{value!r} is not one of {', '.join(names)}.", param, ctx)
        return value


class _NewUser(BaseModel):
    email: NewEmail
    password: NewPassword


def add_commands(group: click.Group, roles: Roles, templates: MailTemplates) -> None:
    """Add ``users`` to the service's commands, for its ``roles`` and its mails' ``templates``."""
    handed = {"obj": Handed(roles, templates)}
    commands = click.Group(
        "users", commands=users.commands, help=users.help, context_settings=handed
    )
    group.add_command(commands)


@click.group()
def users() -> None:
    """Create, list and change users. USER is an e-mail address or an id."""


@users.command()
@click.argument("email")
@click.option("--role", type=_RoleName(), help="Such as admin.")
@click.password_option(help="Asked for if it is not given.", envvar="NEW_USER_PASSWORD")
def create(email: str, role: str | None, password: str) -> None:
    """Create a user with EMAIL, and print the id."""
    try:
        new = _NewUser(email=email, password=SecretStr(password))
    except ValidationError as error:
        first = error.errors()[0]
        raise click.UsageError(f"{first['loc'][0]}: {first['msg']}.") from None

    roles = _handed().roles
    settings = _settings()

    async def add(db: AsyncSession) -> Any:
        password_hash = await Passwords(settings).hash(new.password)
        user_id = await service.create(db, _actor(), new.email, password_hash)
        if role:
            await service.grant(db, _actor(), user_id, role, roles)
        return user_id

    click.echo(_in_transaction(add))


@users.command("list")
@click.option("--role", type=_RoleName(), help="Only users with this role.")
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
@click.argument("role", type=_RoleName())
def grant(user: str, role: str) -> None:
    """Give USER the role ROLE."""
    _change(user, service.grant, role, _handed().roles)


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
    _change(user, service.reset_password, AccountMails(_settings(), _handed().templates))


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


def _handed() -> Handed:
    handed = click.get_current_context().find_object(Handed)
    assert handed
    return handed


def _settings() -> PlatformSettings:
    context = click.get_current_context().find_object(CommandContext)
    assert context
    return context.get_settings()


def _in_transaction(work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    settings = _settings()

    async def run() -> T:
        async with open_database(settings) as database, database.transaction() as db:
            return await work(db)

    try:
        return asyncio.run(run())
    except AppError as error:
        raise click.ClickException(error.detail) from None
