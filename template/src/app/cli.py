"""The commands: develop, serve, migrate, check, describe."""

import asyncio
import json
import sys
from pathlib import Path

import click

from app.settings import SettingsError, get_settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Run this service and look after it."""


@cli.command()
@click.option("--port", default=8000, show_default=True, help="Port of the API.")
def dev(port: int) -> None:
    """Run everything here: Postgres, Redis, migrations, the API with reload, what works beside it.

    DATABASE_URL and REDIS_URL are used where they are set.
    """
    from app.platform.dev.run import run
    from app.platform.jobs import COMPANIONS

    sys.exit(run(port=port, companions=[[name] for name in COMPANIONS]))


@cli.command()
def serve() -> None:
    """Serve the API with Gunicorn, as in production."""
    from gunicorn.app.wsgiapp import WSGIApplication

    get_settings()
    # In this process, so that what is imported here need not be imported again.
    sys.argv = ["gunicorn", "app.main:create_app()"]
    WSGIApplication("%(prog)s [OPTIONS] [APP_MODULE]").run()


@cli.command()
@click.argument("target", default="heads")
@click.option("--sql", is_flag=True, help="Print the SQL instead of running it.")
def migrate(target: str, sql: bool) -> None:
    """Bring the database to TARGET: all that there is, or a revision."""
    from alembic import command
    from alembic.config import Config

    get_settings()
    command.upgrade(Config(toml_file="pyproject.toml"), target, sql=sql)


@cli.command()
@click.argument("message")
@click.option("--empty", is_flag=True, help="Even if the models say nothing new: to move data.")
def migration(message: str, empty: bool) -> None:
    """Write a migration, called MESSAGE, for what changed in the models. It needs no database."""
    from app.platform.dev.migration import judge, write
    from app.platform.dev.servers import ServerError

    if not message.strip():
        raise click.UsageError("Say what it does, such as `add orders`.")
    try:
        written = write(message, empty=empty)
    except ServerError as error:
        raise click.ClickException(str(error)) from None
    if not written:
        click.echo("The migrations already make what the models say: there is nothing to write.")
    elif found := judge():
        click.echo(f"{found}Others would have to wait for it: change it before it runs.", err=True)


@cli.command()
def check() -> None:
    """Say what is right and wrong with the environment."""
    from app.platform.server.checks import examine

    sys.exit(asyncio.run(examine()))


@cli.command()
@click.option("--output", type=click.Path(path_type=Path), help="A file, instead of the terminal.")
def openapi(output: Path | None) -> None:
    """Write the OpenAPI document; it needs no database and no secret."""
    from app.main import create_app
    from app.settings import offline_settings

    document = json.dumps(create_app(offline_settings()).openapi(), indent=2) + "\n"
    if output:
        output.write_text(document, encoding="utf-8")
    else:
        click.echo(document, nl=False)


def add_commands(group: click.Group) -> None:
    """Add the commands of those parts that have some: a function ``add_commands(group)``."""
    from app import parts

    for part in parts.PARTS:
        if add := getattr(part, "add_commands", None):
            add(group)


def main() -> None:
    """Run a command; an environment that can't be used is said in plain words, exit code 2."""
    add_commands(cli)
    try:
        cli()
    except SettingsError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
