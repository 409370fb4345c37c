"""The commands: develop, serve, migrate, check, describe."""

import asyncio
import gc
import json
import os
import shlex
import sys
from pathlib import Path

import click

from app import main as service
from app.platform import about
from app.platform.base.components import CommandContext
from app.platform.jobs import BACKGROUND_PROCESSES
from app.platform.observability import logs
from app.platform.server.checks import run_checks
from app.platform.settings import SettingsError, offline_settings
from app.settings import Settings, get_settings

PORT = click.IntRange(1, 65535)
DEV_ENVIRONMENT = Path(".local/environment")  # written by `app dev` while it runs


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Run this service and look after it."""


@cli.command()
@click.option("--port", default=8000, show_default=True, type=PORT, help="Port of the API.")
def dev(port: int) -> None:
    """Run everything here: Postgres, Redis, migrations, the API with reload, background processes.

    DATABASE_URL and REDIS_URL are used where they are set.
    """
    from app.platform.dev.run import run  # noqa: PLC0415 (needs the dev dependencies)

    sys.exit(run(port=port, background=[[name] for name in BACKGROUND_PROCESSES]))


@cli.command()
def serve() -> None:
    """Serve the API with Gunicorn, as in production."""
    from gunicorn.app.wsgiapp import WSGIApplication  # noqa: PLC0415 (not on Windows)

    get_settings()
    gc.disable()  # until the app has been created: gunicorn.conf.py
    # First, so that the arguments of the environment override it.
    config = f"--config {shlex.quote(_project_file('gunicorn.conf.py'))}"
    os.environ["GUNICORN_CMD_ARGS"] = f"{config} {os.environ.get('GUNICORN_CMD_ARGS', '')}"
    # In this process, so that what is imported here need not be imported again.
    sys.argv = ["gunicorn", "app.main:create_app()"]
    WSGIApplication("%(prog)s [OPTIONS] [APP_MODULE]").run()


@cli.command()
@click.argument("target", default="heads")
@click.option("--sql", is_flag=True, help="Print the SQL instead of running it.")
def migrate(target: str, sql: bool) -> None:
    """Migrate the database to TARGET: the newest revisions, or the given one."""
    from alembic import command  # noqa: PLC0415 (0.3 s at every start)
    from alembic.config import Config  # noqa: PLC0415 (0.3 s at every start)
    from alembic.script.revision import RevisionError  # noqa: PLC0415 (0.3 s at every start)
    from alembic.util import CommandError  # noqa: PLC0415 (0.3 s at every start)

    get_settings()
    try:
        command.upgrade(Config(toml_file=_project_file("pyproject.toml")), target, sql=sql)
    except (CommandError, RevisionError) as error:
        raise click.ClickException(str(error)) from None


@cli.command()
@click.argument("message")
@click.option("--empty", is_flag=True, help="Even if the models did not change: to move data.")
@click.option("--merge", is_flag=True, help="Join two heads, as Git leaves them after a merge.")
def migration(message: str, empty: bool, merge: bool) -> None:
    """Write a migration called MESSAGE for what changed in the models. It needs no database."""
    from alembic.script.revision import RevisionError  # noqa: PLC0415 (0.3 s at every start)
    from alembic.util import CommandError  # noqa: PLC0415 (0.3 s at every start)

    from app.platform.dev import migration as dev  # noqa: PLC0415 (needs the dev dependencies)
    from app.platform.dev.servers import ServerError  # noqa: PLC0415 (needs the dev dependencies)

    if not message.strip():
        raise click.UsageError("Give a message that says what it does, such as `add orders`.")
    try:
        written = dev.merge(message) if merge else dev.write(message, empty=empty)
    except (CommandError, RevisionError, ServerError) as error:
        raise click.ClickException(str(error)) from None
    if written is None:
        agree = "Your migrations have one head" if merge else "The models and the migrations agree"
        click.echo(f"{agree}: there is nothing to write.")
    elif found := dev.lint(written):
        click.echo(f"{found}It would block traffic: change it before it runs.", err=True)
    else:
        click.echo("Read it, and apply it: restart `app dev`, or run `app migrate`.")


@cli.command()
def check() -> None:
    """Check the environment: settings, connections, migrations."""
    settings = get_settings()
    # Components may change how spans are sent. What the app logs at its start is not for here.
    service.create_app(settings.model_copy(update={"log_level": "ERROR"}))
    sys.exit(asyncio.run(run_checks(settings)))


@cli.command()
@click.option("--output", type=click.Path(path_type=Path), help="A file, instead of the terminal.")
@click.option("--check", is_flag=True, help="Fail if the committed openapi.json is not current.")
def openapi(output: Path | None, check: bool) -> None:
    """Write the OpenAPI document; it needs no database and no secret."""
    app = service.create_app(offline_settings(Settings))
    document = json.dumps(app.openapi(), indent=2) + "\n"
    if check:
        committed = about.project_folder() / "openapi.json"
        if committed.exists() and committed.read_text(encoding="utf-8") != document:
            raise click.ClickException(
                "openapi.json is not the document of this code: run `make openapi` and commit it."
            )
    elif output:
        output.write_text(document, encoding="utf-8")
    else:
        click.echo(document, nl=False)


@cli.command()
@click.argument("base", required=False)
def contract(base: str | None) -> None:
    """Refuse changes of the API that break its clients, unless the version announces them.

    Compares with openapi.json at the Git revision BASE: by default the last tag, or the main
    branch if there is none.
    """
    from app.platform.dev import breaking  # noqa: PLC0415 (for development)

    if (found := breaking.committed(base)) is None:
        click.echo("There is no earlier openapi.json to compare with.")
        return
    revision, old = found
    new = service.create_app(offline_settings(Settings)).openapi()
    changes = breaking.breaking_changes(old, new)
    if not changes:
        click.echo(f"No breaking change since {revision}.")
        return
    click.echo("\n".join([f"Breaking changes since {revision}:", *changes]))
    before = old["info"]["version"]
    if not breaking.may_break(before, about.version()):
        part = "minor" if before.startswith("0.") else "major"
        raise click.ClickException(
            "these need another version of the API, or of the service: serve the old one, too, or"
            f" run `uv version --bump {part}`."
        )


def _project_file(name: str) -> str:
    path = about.project_folder() / name
    if not path.exists():
        raise click.ClickException(f"{path} does not exist: run this in the project's folder.")
    return str(path)


def add_commands(group: click.Group) -> None:
    """Add the commands of the components that have a function ``add_commands(group)``."""
    for component in service.COMPONENTS:
        if add := getattr(component, "add_commands", None):
            add(group)


def main() -> None:
    """Run a command; invalid settings end it with one readable message and exit code 2."""
    logs.use_stderr()
    add_commands(cli)
    try:
        cli(obj=CommandContext(get_settings, service.create_app))
    except SettingsError as error:
        click.echo(str(error), err=True)
        if DEV_ENVIRONMENT.exists():
            command = shlex.join(["app", *sys.argv[1:]])
            with_file = f"uv run --env-file {DEV_ENVIRONMENT} {command}"
            click.echo(f"To use the servers of the running `app dev`: {with_file}", err=True)
        sys.exit(2)
