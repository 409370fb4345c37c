"""Rotated credentials: DATABASE_URL_FILE and its like are read again for new connections.

Connections that are open stay open. While the file holds nothing that can be read, new connections
use what they used before.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.asyncio.connection import parse_url
from redis.credentials import CredentialProvider
from sqlalchemy import event
from sqlalchemy.engine import URL, Dialect, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from app.platform.settings import PlatformSettings
from app.platform.settings.data import asyncpg_url
from app.platform.settings.sources import SecretFiles, read_secret_file


def follow_database_url(engine: AsyncEngine, settings: PlatformSettings) -> None:
    """Connect ``engine`` to the URL that the file holds from which its own came, if one did."""
    own = make_url(settings.database_url.get_secret_value())
    names = ("database_url", "database_replica_url")
    files = (n for n in names if own in map(_database_url, SecretFiles.loaded.get(n, ())))
    if not (name := next(files, None)):
        return

    @event.listens_for(engine.sync_engine, "do_connect")
    def do_connect(dialect: Dialect, _record: object, _args: Any, options: dict[str, Any]) -> None:
        if url := _database_url(read_secret_file(name)):
            options.update(dialect.create_connect_args(url)[1])


def _database_url(text: str | None) -> URL | None:
    try:
        return asyncpg_url(text) if text else None
    except ValueError:
        return None


@dataclass(frozen=True)
class _RedisFile(CredentialProvider):
    """The username and password in REDIS_URL_FILE, or those of ``url`` if it holds none."""

    url: str

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            current = parse_url(read_secret_file("redis_url") or "")
        except ValueError:
            current = {}
        if not current.get("password"):
            current = parse_url(self.url)
        username, password = current.get("username"), current["password"]
        return (username, password) if username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


def redis_login(url: str) -> tuple[str, CredentialProvider | None]:
    """``url`` for clients of Redis, and what provides the username and password for it.

    The latter is ``None`` unless ``url`` has a password and came from REDIS_URL_FILE: then the
    returned URL has none, as clients take either. Only credentials are read again, not the host.
    """
    from_file = url in SecretFiles.loaded.get("redis_url", ())
    if not from_file or not parse_url(url).get("password"):
        return url, None
    parts = urlsplit(url)
    options = [(k, v) for k, v in parse_qsl(parts.query) if k not in ("username", "password")]
    query = f"?{urlencode(options)}" if options else ""
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{query}", _RedisFile(url)
