"""Commands that manage keys in the database: ``app keys create billing``."""

import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import click
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.auth import audit_log
from app.platform.auth import keys as service
from app.platform.auth.admin_commands import actor, audit, event_line, in_transaction, settings
from app.platform.auth.models import ApiKey
from app.platform.auth.schemas import OWNER, SCOPE

Lifetime = timedelta | None
UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1)}


def add_commands(group: click.Group) -> None:
    """Add ``keys`` to the service's commands."""
    group.add_command(keys)


def _matching(pattern: str) -> Callable[..., Any]:
    """A callback that refuses a value, or one of several, that does not match ``pattern``."""

    def check(_: click.Context, __: click.Parameter, value: Any) -> Any:
        for text in value if isinstance(value, tuple) else (value,):
            if text is not None and not re.fullmatch(pattern, text):
                raise click.BadParameter(f"{text!r} does not match {pattern}")
        return value

    return check


def _duration(_: click.Context, __: click.Parameter, value: str) -> timedelta:
    """The duration that ``90d`` or ``24h`` stands for."""
    match = re.fullmatch(r"(\d{1,4})([hd])", value)
    if not match:
        raise click.BadParameter(f"{value!r} is not a duration; write it as 90d or 24h")
    return int(match[1]) * UNITS[match[2]]


def _lifetime(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Lifetime:
    """The lifetime of a new key; ``None`` if it never expires."""
    if value is None:
        return timedelta(days=settings().api_key_lifetime_days)
    return None if value == "never" else _duration(ctx, parameter, value)


expires = click.option(
    "--expires", callback=_lifetime, help="90d, 24h or never; the default is API_KEY_LIFETIME_DAYS."
)


@click.group()
def keys() -> None:
    """Create, list, rotate, disable and revoke API keys."""


keys.add_command(audit)


@keys.command()
@click.argument("owner", callback=_matching(OWNER))
@click.option("--scope", "scopes", multiple=True, callback=_matching(SCOPE), help="Repeatable.")
@expires
def create(owner: str, scopes: tuple[str, ...], expires: Lifetime) -> None:
    """Create a key for OWNER, the name of its caller, and print it."""
    prefix = settings().api_key_prefix
    _print(*in_transaction(lambda db: service.create(db, actor(), prefix, owner, scopes, expires)))


@keys.command("list")
@click.option("--owner", callback=_matching(OWNER), help="Only the keys of this owner.")
def list_(owner: str | None) -> None:
    """List all keys, newest first, including revoked and expired ones."""
    found = in_transaction(lambda db: service.list_keys(db, owner))
    for key in found:
        click.echo(_line(key))
    if not found:
        click.echo("There are no such keys.", err=True)


@keys.command()
@click.argument("key_id")
@click.option("--events", default=20, show_default=True, type=click.IntRange(0, 10_000))
def show(key_id: str, events: int) -> None:
    """Show a key, and the newest entries of the audit log about its owner."""

    async def read(db: AsyncSession) -> tuple[ApiKey, Any]:
        key = await service.get(db, key_id)
        return key, await audit_log.list_events(db, events, key.owner)

    key, log = in_transaction(read)
    click.echo(_line(key))
    for event in log:
        click.echo(event_line(event))


@keys.command()
@click.argument("key_id")
def disable(key_id: str) -> None:
    """Refuse KEY_ID until it is enabled."""
    _change(key_id, service.disable)


@keys.command()
@click.argument("key_id")
def enable(key_id: str) -> None:
    """Accept KEY_ID again; a revoked or expired key stays refused."""
    _change(key_id, service.enable)


@keys.command()
@click.argument("key_id")
@click.option(
    "--overlap", callback=_duration, default="24h", help="How long the old key stays valid: 24h."
)
@expires
def rotate(key_id: str, overlap: timedelta, expires: Lifetime) -> None:
    """Replace KEY_ID by a new key; the old one stays valid during the overlap."""
    prefix = settings().api_key_prefix

    async def replace(db: AsyncSession) -> tuple[ApiKey, str]:
        old = await service.get_for_update(db, key_id)
        return await service.rotate(db, actor(), prefix, old, expires, overlap)

    _print(*in_transaction(replace))


@keys.command()
@click.argument("key_id", required=False)
@click.option("--owner", callback=_matching(OWNER), help="All keys of this owner.")
def revoke(key_id: str | None, owner: str | None) -> None:
    """Revoke a key, or all keys of one owner."""
    if (key_id is None) == (owner is None):
        raise click.UsageError("Give the id of a key, or --owner.")

    async def end(db: AsyncSession) -> int:
        if owner:
            return await service.revoke_all(db, actor(), owner)
        await service.revoke(db, actor(), await service.get_for_update(db, str(key_id)))
        return 1

    click.echo(f"{in_transaction(end)} revoked.")


def _change(key_id: str, change: Callable[..., Awaitable[None]]) -> None:
    """Make a change, and print the key."""

    async def make(db: AsyncSession) -> ApiKey:
        key = await service.get_for_update(db, key_id)
        await change(db, actor(), key)
        return key

    click.echo(_line(in_transaction(make)))


def _line(key: ApiKey) -> str:
    scopes = " ".join(key.scopes) or "-"
    return f"{key.id}  {key.owner}  {scopes}  {_state(key)}, used {_when(key.last_used_at)}"


def _print(key: ApiKey, text: str) -> None:
    """Write the key to stdout, so that it can be piped, and everything else to stderr."""
    click.echo(f"{key.id}, {_state(key)}. It cannot be shown again:", err=True)
    click.echo(text)


def _state(key: ApiKey) -> str:
    if key.revoked_at:
        return f"revoked {_when(key.revoked_at)}"
    if key.disabled_at:
        return f"disabled {_when(key.disabled_at)}"
    return f"expires {_when(key.expires_at)}"


def _when(time: datetime | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M") if time else "never"
