"""Checks of the environment: ``app check``, and the connection budget at start."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import click
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.platform.base.cpus import available_cpus
from app.platform.data.database import create_engine
from app.platform.data.redis import create_client
from app.platform.jobs import background_connections
from app.platform.settings import PlatformSettings, SettingsError, rename_hints
from app.platform.settings.sources import ERROR_HEADER

CHECK_TIMEOUT = 5.0  # seconds for one dependency

LIMIT = text(
    "SELECT current_setting('max_connections')::int"
    " - current_setting('superuser_reserved_connections')::int"
)


class CheckFailed(Exception):
    """A check found what keeps the service from working."""


class CheckWarning(Exception):
    """A check found what works, but is rarely intended."""


async def refuse_too_many_connections(settings: PlatformSettings, processes: int) -> None:
    """Raise ``SettingsError`` if all processes together may exceed Postgres' connection limit.

    ``processes``: API processes of one replica. Without a reachable database the check is skipped:
    the service starts, and becomes ready with the database.
    """
    try:
        await _connection_budget(settings, processes)
    except CheckFailed as error:
        raise SettingsError(f"{ERROR_HEADER}\n  {error}") from None
    except Exception:  # noqa: BLE001 (the database is unavailable, for any reason)
        return


async def _connection_budget(settings: PlatformSettings, processes: int) -> str:
    if settings.db_pgbouncer:
        return "pooled by PgBouncer"
    async with _connected(settings) as connection:
        allowed = int((await connection.execute(LIMIT)).scalar_one())
    each = settings.db_pool_size + settings.db_max_overflow
    most = settings.max_replicas * processes * each
    total = f"{processes} processes x {each} connections = {most}"
    if settings.max_replicas > 1:
        total = f"{settings.max_replicas} replicas x {total}"
    left, why = _reserved_connections(settings)
    if most > allowed - left:
        raise CheckFailed(
            f"MAX_REPLICAS, WEB_CONCURRENCY, DB_POOL_SIZE, DB_MAX_OVERFLOW: {total}, but Postgres"
            f" allows {allowed}, of which {why} are reserved. Lower one of them, raise"
            " max_connections, or put PgBouncer in between and set DB_PGBOUNCER=true."
        )
    return f"{total}, of {allowed}, of which {why} are reserved"


def _reserved_connections(settings: PlatformSettings) -> tuple[int, str]:
    """Connections that the API must leave to other processes, and an explanation.

    ``DB_RESERVED_CONNECTIONS`` covers all of them when it is set and large enough; otherwise one
    background process of each kind is added to it.
    """
    spare, beside = settings.db_reserved_connections, background_connections(settings)
    opened, why = sum(beside.values()), f"DB_RESERVED_CONNECTIONS={spare}"
    if "db_reserved_connections" in settings.model_fields_set and spare >= opened:
        return spare, why
    return spare + opened, " + ".join([why, *(f"{n} of {name}" for name, n in beside.items())])


@asynccontextmanager
async def _connected(settings: PlatformSettings) -> AsyncIterator[AsyncConnection]:
    engine = create_engine(settings)
    try:
        async with asyncio.timeout(CHECK_TIMEOUT), engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def _postgres(settings: PlatformSettings) -> str:
    async with _connected(settings) as connection:
        version = (await connection.execute(text("SHOW server_version"))).scalar_one()
    return f"Postgres {version}"


async def _redis(settings: PlatformSettings) -> str:
    async with asyncio.timeout(CHECK_TIMEOUT), create_client(settings) as client:
        info = await client.info("server")
    return f"Redis {info['redis_version']}"


async def _connections(settings: PlatformSettings) -> str:
    return await _connection_budget(settings, settings.web_concurrency or available_cpus())


async def _migrations(settings: PlatformSettings) -> str:
    if missing := await _missing_revisions(settings):
        raise CheckFailed(f"{len(missing)} not applied ({', '.join(missing)}): run `app migrate`")
    return "all applied"


async def _missing_revisions(settings: PlatformSettings) -> list[str]:
    from alembic.config import Config  # noqa: PLC0415 (0.3 s at every start)
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415 (0.3 s at every start)
    from alembic.script import ScriptDirectory  # noqa: PLC0415 (0.3 s at every start)

    from app.platform.data.revisions import (  # noqa: PLC0415 (0.3 s at every start)
        without_removed_branches,
    )

    scripts = ScriptDirectory.from_config(Config(toml_file="pyproject.toml"))

    def missing(connection: Connection) -> list[str]:
        heads = MigrationContext.configure(connection).get_current_heads()
        applied = without_removed_branches(heads, scripts)
        done = {script.revision for script in scripts.iterate_revisions(applied, "base")}
        return sorted(s.revision for s in scripts.walk_revisions() if s.revision not in done)

    async with _connected(settings) as connection:
        return await connection.run_sync(missing)


async def _exposure(settings: PlatformSettings) -> str:
    if settings.environment == "production" and "*" in settings.allowed_hosts:
        raise CheckWarning("ALLOWED_HOSTS is *, so any Host header is accepted; list your hosts")
    return f"answers for {', '.join(settings.allowed_hosts)}"


CHECKS: dict[str, Callable[[PlatformSettings], Awaitable[str]]] = {
    "database": _postgres,
    "connections": _connections,
    "migrations": _migrations,
    "redis": _redis,
    "hosts": _exposure,
}


async def run_checks(settings: PlatformSettings) -> int:
    """Print one line for each check; return 0 if all passed, else 1."""
    _line(
        "ok",
        "settings",
        f"{settings.environment}, {len(type(settings).model_fields)} settings valid",
    )
    for hint in rename_hints(type(settings)):
        _line("warning", "settings", hint)
    results = [await _examine(name, check, settings) for name, check in CHECKS.items()]
    return 0 if all(results) else 1


async def _examine(
    name: str, check: Callable[[PlatformSettings], Awaitable[str]], settings: PlatformSettings
) -> bool:
    start = time.perf_counter()
    try:
        found = await check(settings)
    except CheckWarning as doubt:
        _line("warning", name, str(doubt))
    except CheckFailed as error:
        _line("wrong", name, str(error))
        return False
    except TimeoutError:
        _line("wrong", name, f"no answer within {CHECK_TIMEOUT:g} s")
        return False
    except Exception as error:  # noqa: BLE001 (whatever a driver raises is the answer)
        _line("wrong", name, f"{type(error).__name__}: {str(error).splitlines()[0]}")
        return False
    else:
        _line("ok", name, f"{found} ({(time.perf_counter() - start) * 1000:.0f} ms)")
    return True


def _line(verdict: str, name: str, what: str) -> None:
    colour = {"ok": "green", "warning": "yellow", "wrong": "red"}[verdict]
    click.echo(f"{click.style(f'{verdict:>8}', fg=colour)}  {name:<12} {what}")
