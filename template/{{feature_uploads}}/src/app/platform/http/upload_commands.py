"""Commands of uploads: ``uploads clean``."""

import asyncio

import click

from app.platform.base.components import CommandContext
from app.platform.data import upload_cleanup
from app.platform.data.database import open_database
from app.platform.data.object_store import ObjectStore

CLEAN_SECONDS = 3600.0  # after which no new batch begins


@click.group(name="uploads")
def commands() -> None:
    """Look after uploaded files."""


@commands.command("clean")
@click.pass_obj
def clean_command(command: CommandContext) -> None:
    """Delete stale uploads, and objects without one; the job uploads.clean does the same."""
    settings = command.get_settings()

    async def run() -> upload_cleanup.Cleaned:
        async with open_database(settings) as database:
            store = await asyncio.to_thread(ObjectStore, settings)
            return await upload_cleanup.clean(database, store, settings, CLEAN_SECONDS)

    cleaned = asyncio.run(run())
    click.echo(
        f"Deleted: {cleaned.uploads} uploads, {cleaned.objects} objects without one, and the parts"
        f" of {cleaned.parts} that were never complete."
    )


def add_commands(cli: click.Group) -> None:
    """Add ``uploads`` to ``cli``."""
    cli.add_command(commands)
