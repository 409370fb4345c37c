"""Commands of webhooks: subscriptions, test messages, dead deliveries."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import click
from fastapi import FastAPI

from app.platform.base.components import CommandContext
from app.platform.base.errors import AppError
from app.platform.data import webhook_deliveries, webhook_subscriptions
from app.platform.http.webhook_events import check_event_types
from app.platform.settings import PlatformSettings


def add_commands(cli: click.Group) -> None:
    """Add ``webhooks`` to ``cli``."""
    cli.add_command(webhooks)


@click.group()
def webhooks() -> None:
    """Subscriptions to webhooks, and their deliveries."""


@webhooks.command("list")
@click.option("--owner", help="Of one caller only.")
@click.pass_obj
def list_(context: CommandContext, owner: str | None) -> None:
    """List subscriptions."""

    async def work(app: FastAPI, _: PlatformSettings) -> None:
        statement = webhook_subscriptions.select_subscriptions(owner)
        found = await app.state.read_session.all(statement)
        for row in found:
            state = f"disabled: {row.disabled_reason}" if row.disabled_at else "enabled"
            types = ",".join(row.event_types)
            click.echo(f"{row.id}  {row.owner}  {row.url}  {types}  {state}")
        if not found:
            click.echo("There are no such subscriptions.", err=True)

    _run(context, work)


@webhooks.command()
@click.argument("owner")
@click.argument("url")
@click.argument("types", nargs=-1, required=True)
@click.pass_obj
def add(context: CommandContext, owner: str, url: str, types: tuple[str, ...]) -> None:
    """Send events of TYPES that belong to OWNER to URL; print the secret, once."""

    async def work(app: FastAPI, settings: PlatformSettings) -> None:
        check_event_types(types)
        async with app.state.db.transaction() as session:
            row, secret = await webhook_subscriptions.create(session, settings, owner, url, types)
        click.echo(f"{row.id}  {secret}")

    _run(context, work)


@webhooks.command()
@click.argument("subscription", type=click.UUID)
@click.pass_obj
def remove(context: CommandContext, subscription: UUID) -> None:
    """Delete a subscription, with its deliveries."""

    async def work(app: FastAPI, _: PlatformSettings) -> None:
        async with app.state.db.transaction() as session:
            await webhook_subscriptions.remove(session, None, subscription)

    _run(context, work)


@webhooks.command()
@click.argument("subscription", type=click.UUID)
@click.pass_obj
def enable(context: CommandContext, subscription: UUID) -> None:
    """Enable a subscription that was disabled."""

    async def work(app: FastAPI, _: PlatformSettings) -> None:
        async with app.state.db.transaction() as session:
            await webhook_subscriptions.enable(session, None, subscription)

    _run(context, work)


@webhooks.command()
@click.argument("subscription", type=click.UUID)
@click.pass_obj
def rotate(context: CommandContext, subscription: UUID) -> None:
    """Replace a subscription's secret; print the new one, once."""

    async def work(app: FastAPI, settings: PlatformSettings) -> None:
        async with app.state.db.transaction() as session:
            click.echo(
                await webhook_subscriptions.rotate_secret(session, settings, None, subscription)
            )

    _run(context, work)


@webhooks.command()
@click.argument("subscription", type=click.UUID)
@click.pass_obj
def ping(context: CommandContext, subscription: UUID) -> None:
    """Send a test message to a subscription."""

    async def work(app: FastAPI, _: PlatformSettings) -> None:
        async with app.state.db.transaction() as session:
            row = await webhook_subscriptions.get(session, None, subscription)
            delivery = await webhook_deliveries.ping(session, row)
            await app.state.enqueue_webhooks(session, [delivery])
        click.echo(str(delivery))

    _run(context, work)


@webhooks.command()
@click.option("--all", "state", flag_value=None, default=None, help="Of every status.")
@click.option("--dead", "state", flag_value="dead", help="Those without attempts left.")
@click.option("--pending", "state", flag_value="pending", help="Those that are not delivered yet.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@click.pass_obj
def deliveries(context: CommandContext, state: str | None, limit: int) -> None:
    """List the newest deliveries, with the response to their last attempt."""

    async def work(app: FastAPI, _: PlatformSettings) -> None:
        statement = webhook_deliveries.select_deliveries(status=state).limit(limit)
        found = await app.state.read_session.all(statement)
        for row in found:
            when = row.created_at.isoformat(timespec="seconds")
            last = row.error or row.status_code or ""
            click.echo(
                f"{row.id}  {when}  {row.type}  {row.subscription_id}  {row.status}"
                f"  {row.attempts}x  {last}"
            )
        if not found:
            click.echo("There are no such deliveries.", err=True)

    _run(context, work)


@webhooks.command()
@click.argument("delivery", type=click.UUID, required=False)
@click.option("--all", "every", is_flag=True, help="Replay all dead deliveries.")
@click.pass_obj
def replay(context: CommandContext, delivery: UUID | None, every: bool) -> None:
    """Send a dead delivery again, with all its attempts."""
    if (delivery is None) != every:
        raise click.UsageError("Give the id of a dead delivery, or --all.")

    async def work(app: FastAPI, _: PlatformSettings) -> None:
        async with app.state.db.transaction() as session:
            ids = await webhook_deliveries.replay(session, delivery_id=delivery)
            await app.state.enqueue_webhooks(session, ids)
        click.echo(f"Deliveries to be made again: {len(ids)}")

    _run(context, work)


def _run(
    context: CommandContext, work: Callable[[FastAPI, PlatformSettings], Awaitable[Any]]
) -> None:
    async def run() -> None:
        settings = context.get_settings()
        app = context.create_app(settings)
        async with app.router.lifespan_context(app):
            await work(app, settings)

    try:
        asyncio.run(run())
    except AppError as error:
        raise click.ClickException(error.detail) from None
