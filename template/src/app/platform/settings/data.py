"""Settings of Postgres, Redis and outgoing HTTP."""

from typing import ClassVar

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError


class DataSettings(BaseSettings):
    """Addresses, pool sizes and time-outs of what the service connects to."""

    renamed: ClassVar = {"db_connections_spare": "db_reserved_connections"}

    database_url: SecretStr = Field(description="postgresql+asyncpg://user:password@host/database")
    db_pool_size: int = Field(10, ge=1, description="Connections that a process keeps open")
    # None by default: connections above the pool's size are closed after each use, so that a
    # service under load would open connections all the time. A pool opens no more than it needs.
    db_max_overflow: int = Field(
        0, ge=0, description="Connections beyond the pool's size, each closed after its use"
    )
    db_pool_timeout: float = Field(5, gt=0, description="Seconds to wait for a connection")
    db_pool_recycle: int = Field(1800, ge=1, description="Seconds until a connection is renewed")
    db_ping_after_idle: float = Field(
        30, ge=0, description="Seconds without use after which a connection is tested first"
    )
    db_reserved_connections: int = Field(
        5, ge=0, description="Connections reserved for workers, migrations and people with psql"
    )
    db_statement_timeout: float = Field(10, gt=0, description="Seconds that one statement may take")
    db_pgbouncer: bool = Field(
        False, description="Whether the database is a PgBouncer in transaction mode"
    )

    redis_url: SecretStr = Field(description="redis://host:6379/0, or rediss:// for TLS")
    redis_timeout: float = Field(2, gt=0, description="Seconds that one Redis command may take")
    redis_max_connections: int = Field(50, ge=1, description="Redis connections of a process")

    http_timeout: float = Field(10, gt=0, description="Seconds for one outgoing HTTP request")
    http_max_connections: int = Field(100, ge=1, description="Outgoing connections of a process")

    @field_validator("database_url")
    @classmethod
    def _asyncpg(cls, value: SecretStr) -> SecretStr:
        try:
            url = make_url(value.get_secret_value())
        except (ArgumentError, ValueError):
            raise ValueError("is no URL; write postgresql+asyncpg://user@host/database") from None
        if url.drivername in ("postgres", "postgresql"):
            url = url.set(drivername="postgresql+asyncpg")
        if url.drivername != "postgresql+asyncpg" or not url.host or not url.database:
            raise ValueError("write it as postgresql+asyncpg://user@host/database")
        return SecretStr(url.render_as_string(hide_password=False))

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("write it as redis://host:6379/0")
        return value
