"""`app migration`: a new migration from the difference between the migrations and the models."""

import asyncio
import subprocess
import sys
from io import StringIO
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from app.platform.data.database import Base
from app.platform.dev.servers import postgres


def write(message: str, *, empty: bool) -> bool:
    """Write a migration called `message`; return whether there was anything to write.

    The migrations that there are run in a Postgres of their own, so that nobody's database matters.
    `empty` writes one although the models say nothing new. Raises `ServerError`.
    """
    config = Config(toml_file="pyproject.toml")

    def compare(connection: Connection) -> bool:
        config.attributes["connection"] = connection
        command.upgrade(config, "heads")
        options = {"compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        if not empty and not compare_metadata(context, Base.metadata):
            return False
        command.revision(config, message, autogenerate=True)
        return True

    async def run(url: str) -> bool:
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            written = await connection.run_sync(compare)
        await engine.dispose()
        return written

    with postgres() as url:
        return asyncio.run(run(url))


def lint_migrations() -> str:
    """Return what squawk has against the migrations: they would keep others waiting, and so on."""
    sql = StringIO()
    command.upgrade(Config(toml_file="pyproject.toml", output_buffer=sql), "heads", sql=True)
    squawk = str(Path(sys.executable).with_name("squawk"))
    found = subprocess.run(  # noqa: S603
        [squawk, "--config", ".squawk.toml"],
        input=sql.getvalue(),
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout if found.returncode else ""
