"""Every setting of the service, typed and checked before anything starts.

Values come from the environment and, in development, from ``.env``. A secret ``NAME`` can also be
given as ``NAME_FILE``, the path of a file that holds it.
"""

import re
from functools import cache
from secrets import token_hex
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from app.platform.settings.auth import AuthSettings
from app.platform.settings.jobs import JobsSettings
from app.platform.settings.rates import Rate, RateOrOff
from app.platform.settings.sources import SecretFiles, explain, refuse_unreadable, split_commas
from app.platform.settings.tracing import TracingSettings

Environment = Literal["development", "test", "production"]
Names = Annotated[list[str], NoDecode]

EXAMPLE_SECRETS = ("change-me", "changeme", "secret", "example", "password", "insecure")


class SettingsError(Exception):
    """The environment can't be used. The message names every wrong variable."""


class CoreSettings(BaseSettings):
    """What every service of this kind needs."""

    environment: Environment = Field("production", description="development, test or production")
    secret_key: SecretStr = Field(description="Signs tokens and cursors; 32 random bytes or more")
    database_url: SecretStr = Field(description="postgresql+asyncpg://user:password@host/database")
    redis_url: SecretStr = Field(description="redis://host:6379/0, or rediss:// for TLS")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The least severe line that is written"
    )
    port: int = Field(8000, ge=1, le=65535, description="Port of the API")
    web_concurrency: int | None = Field(
        None, ge=1, description="API processes; unset: one per CPU that the container has"
    )
    max_replicas: int = Field(
        1, ge=1, description="Replicas of the API, at most: for the sum of their connections"
    )

    db_pool_size: int = Field(10, ge=1, description="Connections that a process keeps open")
    # None by default: what is above the pool's size is closed after each use, so that a service
    # under load would open connections all the time. A pool opens no more than are needed.
    db_max_overflow: int = Field(
        0, ge=0, description="Connections more, under load, each closed after its use"
    )
    db_pool_timeout: float = Field(5, gt=0, description="Seconds to wait for a connection")
    db_pool_recycle: int = Field(1800, ge=1, description="Seconds until a connection is renewed")
    db_ping_after_idle: float = Field(
        30, ge=0, description="Seconds without use after which a connection is tested first"
    )
    db_connections_spare: int = Field(
        5, ge=0, description="Connections left for others: workers, migrations, people with psql"
    )
    db_statement_timeout: float = Field(10, gt=0, description="Seconds that one statement may take")
    db_pgbouncer: bool = Field(
        False, description="The database is a PgBouncer in transaction mode: it does the pooling"
    )
    redis_timeout: float = Field(2, gt=0, description="Seconds that one Redis command may take")
    redis_max_connections: int = Field(50, ge=1, description="Redis connections of a process")

    http_timeout: float = Field(10, gt=0, description="Seconds for one outgoing HTTP request")
    http_max_connections: int = Field(100, ge=1, description="Outgoing connections of a process")

    allowed_hosts: Names = Field(["*"], description="Host headers that are answered, by comma")
    trusted_proxies: Names = Field(
        ["127.0.0.1"], description="Proxies whose X-Forwarded-* headers are believed, by comma"
    )
    cors_origins: Names = Field([], description="Origins of browsers that may call, by comma")
    cors_allow_credentials: bool = Field(False, description="May those browsers send cookies?")

    rate_limit: RateOrOff = Field(
        Rate(600, 60), description="Requests of one client to the API, such as 600/minute, or off"
    )
    rate_limit_fail_open: bool = Field(
        True,
        description="While Redis is away: true, each process counts for itself; false, answer 503",
    )
    rate_limit_timeout: float = Field(
        1, gt=0, description="Seconds that Redis has to count a request"
    )

    max_body_size: int = Field(1_048_576, ge=1, description="Bytes that a request body may have")
    request_timeout: float = Field(30, gt=0, description="Seconds until a request is given up")
    max_in_flight: int = Field(
        256, ge=1, description="Requests that a process works on; more are answered with 503"
    )
    # Both fit, with the pools, into the 1024 files that most systems let a process open.
    max_connections: int = Field(
        800, ge=1, description="Connections of a process; for more, those without a request go"
    )
    max_websockets: int = Field(
        400, ge=0, description="WebSockets of a process; more are answered with 503"
    )
    drain_seconds: float | None = Field(
        None,
        ge=0,
        le=15,
        description="Seconds of service after SIGTERM, for load balancers; unset: 5 in production",
    )
    log_request_share: float = Field(
        1, ge=0, le=1, description="Share of the successful requests that get a line in the log"
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port of /metrics; unset: that of the API"
    )
    thread_pool_size: int = Field(20, ge=1, description="Threads for synchronous code")

    # Your own settings here.

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True)

    _split_commas = field_validator(
        "allowed_hosts", "trusted_proxies", "cors_origins", mode="before"
    )(split_commas)

    @field_validator("secret_key")
    @classmethod
    def _long_and_random(cls, value: SecretStr) -> SecretStr:
        secret = value.get_secret_value()
        if len(secret) < 32 or len(set(secret)) < 10:
            raise ValueError("needs at least 32 random characters, such as `openssl rand -hex 32`")
        if any(word in secret.lower() for word in EXAMPLE_SECRETS):
            raise ValueError("is an example; make one with `openssl rand -hex 32`")
        return value

    @field_validator("database_url")
    @classmethod
    def _asyncpg(cls, value: SecretStr) -> SecretStr:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

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

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: list[str]) -> list[str]:
        for origin in value:
            if origin != "*" and not re.fullmatch(r"https?://[^\s/*?#@]+", origin):
                raise ValueError(f"{origin} is no origin; write it as https://app.example.com")
        return value

    @field_validator("cors_allow_credentials")
    @classmethod
    def _no_wildcard_with_credentials(cls, value: bool, info: ValidationInfo) -> bool:
        if value and "*" in info.data.get("cors_origins", ()):
            raise ValueError(
                "every site could act as your users: name the origins in CORS_ORIGINS, not *"
            )
        return value


class Settings(AuthSettings, JobsSettings, TracingSettings, CoreSettings):
    """The settings of this service. Yours go here, one typed and described line each."""

    _readable = field_validator("*", mode="before")(refuse_unreadable)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, SecretFiles(settings_cls), dotenv_settings


def offline_settings() -> Settings:
    """Return settings to build the app with, but not to run it: for the API document."""
    return Settings(
        environment="test",
        secret_key=SecretStr(token_hex()),
        database_url=SecretStr("postgresql+asyncpg://localhost/offline"),
        redis_url=SecretStr("redis://localhost"),
    )


@cache
def get_settings() -> Settings:
    """Read the settings, once.

    Raises ``SettingsError`` with one line for each variable that is missing or wrong.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(explain(error)) from None
