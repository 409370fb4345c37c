"""Commands that manage users: ``app users create ada@example.com --role admin``."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import click
from pydantic import BaseModel, SecretStr, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.auth import audit_log
from app.platform.auth import users as service
from app.platform.auth.account_mails import AccountMails
from app.platform.auth.accounts import NewEmail
from app.platform.auth.admin_commands import actor, audit, event_line, in_transaction, settings
from app.platform.auth.grants import Roles
from app.platform.auth.passwords import NewPassword, Passwords
from app.platform.data.mail import MailTemplates

Change = Callable[..., Awaitable[None]]
user_argument = click.argument("user")


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """The roles of the service, and the templates of its mails."""

    roles: Roles
    templates: MailTemplates


class _RoleName(click.ParamType[str]):
    """The name of one of the service's roles."""

    name = "role"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        names = sorted(_config().roles)
        if value not in names:
            self.fail(f"{value!r} is not one of {', '.join(names)}.", param, ctx)
        return value


class _NewUser(BaseModel):
    email: NewEmail
    password: NewPassword


def add_commands(group: click.Group, roles: Roles, templates: MailTemplates) -> None:
    """Add ``users`` to the service's commands, for its ``roles`` and its mails' ``templates``."""
    config = {"obj": AuthConfig(roles, templates)}
    commands = click.Group(
        "users", commands=users.commands, help=users.help, context_settings=config
    )
    group.add_command(commands)


@click.group()
def users() -> None:
    """Create, list and change users. USER is an e-mail address or an id."""


users.add_command(audit)


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

    roles = _config().roles
    given = settings()

    async def add(db: AsyncSession) -> Any:
        password_hash = await Passwords(given).hash_new(new.password)
        user_id = await service.create(db, actor(), new.email, password_hash)
        if role:
            await service.grant(db, actor(), user_id, role, roles)
        return user_id

    click.echo(in_transaction(add))


@users.command("list")
@click.option("--role", type=_RoleName(), help="Only users with this role.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
def list_(role: str | None, limit: int) -> None:
    """List users, newest first."""
    found = in_transaction(lambda db: service.list_users(db, limit, role))
    for user in found:
        click.echo(_line(user))
    if not found:
        click.echo("There are no such users.", err=True)


@users.command()
@user_argument
@click.option("--events", default=20, show_default=True, type=click.IntRange(0, 10_000))
def show(user: str, events: int) -> None:
    """Show a user, and the newest entries of the audit log about them."""

    async def read(db: AsyncSession) -> tuple[service.UserRow, Any]:
        found = await service.get(db, await service.find(db, user))
        return found, await audit_log.list_events(db, events, str(found.id))

    found, log = in_transaction(read)
    click.echo(_line(found))
    for event in log:
        click.echo(event_line(event))


@users.command()
@user_argument
@click.argument("role", type=_RoleName())
def grant(user: str, role: str) -> None:
    """Give USER the role ROLE."""
    _change(user, service.grant, role, _config().roles)


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
    _change(user, service.reset_password, AccountMails(settings(), _config().templates))


@users.command("end-sessions")
@user_argument
def end_sessions(user: str) -> None:
    """End all sessions of USER."""
    _change(user, service.end_sessions)


def _change(user: str, change: Change, *arguments: Any) -> None:
    """Make a change, and print the user."""

    async def make(db: AsyncSession) -> service.UserRow:
        user_id = await service.find(db, user)
        await change(db, actor(), user_id, *arguments)
        return await service.get(db, user_id)

    click.echo(_line(in_transaction(make)))


def _line(user: service.UserRow) -> str:
    state = f"disabled {user.disabled_at:%Y-%m-%d %H:%M}" if user.disabled_at else "enabled"
    roles = " ".join(sorted(user.roles)) or "-"
    return f"{user.id}  {user.email}  {roles}  {state}, sessions: {user.sessions}"


def _config() -> AuthConfig:
    config = click.get_current_context().find_object(AuthConfig)
    assert config
    return config
