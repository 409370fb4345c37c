"""Rotated credentials: DATABASE_URL_FILE is read again for each new connection.

Connections that are open stay open. While the file holds nothing that can be read, new connections
use what they used before.
"""

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL, Dialect, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.platform.settings import PlatformSettings
from app.platform.settings.sources import read_secret_file


def follow_database_url(engine: AsyncEngine, settings: PlatformSettings) -> None:
    """Connect ``engine`` to the URL that DATABASE_URL_FILE holds, if its own came from there."""
    if _url_in_file() != make_url(settings.database_url.get_secret_value()):
        return

    @event.listens_for(engine.sync_engine, "do_connect")
    def do_connect(dialect: Dialect, _record: object, _args: Any, options: dict[str, Any]) -> None:
        if url := _url_in_file():
            options.update(dialect.create_connect_args(url)[1])


def _url_in_file() -> URL | None:
    text = read_secret_file("database_url")
    try:
        return make_url(text).set(drivername="postgresql+asyncpg") if text else None
    except (ArgumentError, ValueError):
        return None
