"""Settings of Postgres, Redis and the HTTP client."""

import re
from typing import ClassVar

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from app.platform.settings.sources import CommaSeparated
from app.platform.settings.timeouts import Pairs
from app.platform.settings.urls import is_host, split_url

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# Of asyncpg and of SQLAlchemy's dialect for it. Others would fail at each connection attempt.
URL_PARAMETERS = {
    "command_timeout",
    "direct_tls",
    "max_cacheable_statement_size",
    "max_cached_statement_lifetime",
    "passfile",
    "prepared_statement_cache_size",
    "ssl",
    "statement_cache_size",
    "target_session_attrs",
    "timeout",
}


def asyncpg_url(text: str) -> URL:
    """The URL of a database, with asyncpg's names; raises ``ValueError`` if it is not one."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError(
            "is not a URL; write it as postgresql+asyncpg://user@host/database"
        ) from None
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+asyncpg")
    if url.drivername != "postgresql+asyncpg" or not url.host or not url.database:
        raise ValueError("write it as postgresql+asyncpg://user@host/database")
    if "sslmode" in url.query:  # libpq's name for asyncpg's parameter
        url = url.difference_update_query(["sslmode"]).update_query_dict(
            {"ssl": url.query["sslmode"]}
        )
    if url.query.get("ssl", "prefer") not in SSL_MODES:
        raise ValueError(f"has an unknown sslmode; write one of {', '.join(SSL_MODES)}")
    if unknown := sorted(set(url.query) - URL_PARAMETERS):
        raise ValueError(f"has the parameter {unknown[0]}, which asyncpg does not have")
    return url


class DataSettings(BaseSettings):
    """URLs, pool sizes and timeouts of the service's dependencies."""

    renamed: ClassVar = {"db_connections_spare": "db_reserved_connections"}
    shorter_than: ClassVar[Pairs] = (
        ("db_pool_timeout", "request_timeout"),
        ("db_statement_timeout", "request_timeout"),
        ("redis_timeout", "request_timeout"),
        ("http_connect_timeout", "http_timeout"),
    )

    database_url: SecretStr = Field(description="postgresql+asyncpg://user:password@host/database")
    migration_database_url: SecretStr | None = Field(
        None, description="URL of Postgres itself for migrations; unset: DATABASE_URL"
    )
    database_replica_url: SecretStr | None = Field(
        None, description="URL of a standby, for the reads of GET and HEAD; unset: DATABASE_URL"
    )
    db_replica_max_lag: float = Field(
        10, ge=2, le=3600, description="Seconds by which reads from the standby may be stale"
    )
    db_pool_size: int = Field(
        10, ge=1, le=10_000, description="Database connections kept open per process"
    )
    # 0 by default: overflow connections are closed after each use, so that a service under load
    # would keep reconnecting. The pool itself opens connections only when they are needed.
    db_max_overflow: int = Field(
        0, ge=0, le=10_000, description="Connections beyond the pool size, closed after each use"
    )
    db_pool_timeout: float = Field(
        5, gt=0, le=3600, description="Seconds to wait for a free connection"
    )
    db_pool_recycle: int = Field(
        1800, ge=1, le=604_800, description="Maximum age of a connection, in seconds"
    )
    db_ping_after_idle: float = Field(
        30,
        ge=0,
        le=604_800,
        description="Seconds of idleness after which a connection is tested before use",
    )
    db_reserved_connections: int = Field(
        5, ge=0, le=10_000, description="Connections reserved for workers, migrations and psql"
    )
    db_statement_timeout: float = Field(
        10, gt=0, le=86_400, description="Seconds until a statement fails"
    )
    db_pgbouncer: bool = Field(
        False, description="Whether connections go through PgBouncer in transaction mode"
    )

    redis_url: SecretStr = Field(description="redis://host:6379/0, or rediss:// for TLS")
    redis_timeout: float = Field(2, gt=0, le=600, description="Seconds until a Redis command fails")
    redis_max_connections: int = Field(
        50, ge=1, le=10_000, description="Maximum Redis connections per process"
    )

    http_timeout: float = Field(
        10, gt=0, le=3600, description="Seconds for an outgoing HTTP request and its response"
    )
    http_connect_timeout: float = Field(
        3, gt=0, le=3600, description="Seconds to connect to another service"
    )
    http_read_timeout: float = Field(
        10, gt=0, le=3600, description="Seconds to wait for more of another service's response"
    )
    request_id_hosts: CommaSeparated = Field(
        ["localhost", "127.0.0.1", "*.internal", "*.svc", "*.svc.cluster.local"],
        description="Hosts to which requests carry X-Request-ID and the trace, comma-separated",
    )
    http_max_connections: int = Field(
        100, ge=1, le=10_000, description="Maximum outgoing HTTP connections per process"
    )

    @field_validator("request_id_hosts")
    @classmethod
    def _are_host_patterns(cls, value: list[str]) -> list[str]:
        for host in value:
            if host != "*" and not is_host(host):
                raise ValueError(f"{host} is not a host; write it as api.internal or *.internal")
        return value

    @field_validator("database_url", "database_replica_url", "migration_database_url")
    @classmethod
    def _asyncpg(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        url = asyncpg_url(value.get_secret_value())
        return SecretStr(url.render_as_string(hide_password=False))

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        socket = re.match(r"unix://[^/]*/+[^/]", text)
        url = split_url(text, "redis", "rediss")
        if not (socket or (url and re.fullmatch(r"/?|/\d+", url.path))):
            raise ValueError("write it as redis://host:6379/0, with a number after the last slash")
        return value
