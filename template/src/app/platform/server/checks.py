"""Environment checks: ``app check``, and the connection budget at start-up."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import click
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.platform.base.cpus import available_cpus
from app.platform.base.errors import DatabaseUnavailable
from app.platform.data.engine import create_engine
from app.platform.data.redis import create_client
from app.platform.data.replica import CONNECTIONS, replica_settings
from app.platform.jobs import background_connections
from app.platform.observability import tracing
from app.platform.settings import PlatformSettings, SettingsError
from app.platform.settings.hints import variable_hints
from app.platform.settings.sources import ERROR_HEADER
from app.platform.settings.timeouts import out_of_order, pairs

CHECK_TIMEOUT = 5.0  # seconds for one dependency

CONNECTION_LIMIT = text(
    "SELECT current_setting('max_connections')::int"
    " - current_setting('superuser_reserved_connections')::int"
    " - coalesce(current_setting('reserved_connections', true)::int, 0)"  # from Postgres 16 on
)
IN_RECOVERY = text("SELECT pg_is_in_recovery()")


class CheckFailed(Exception):
    """A problem that keeps the service from working."""


class CheckWarning(Exception):
    """A configuration that works, but is rarely intended."""


async def refuse_too_many_connections(settings: PlatformSettings, processes: int) -> None:
    """Raise ``SettingsError`` if all processes together may exceed Postgres' connection limit.

    ``processes``: API processes of one replica. Without a reachable database the check is skipped:
    the service starts, and becomes ready when the database does.
    """
    try:
        await _connection_budget(settings, processes)
    except CheckFailed as error:
        raise SettingsError(f"{ERROR_HEADER}\n  {error}") from None
    except Exception:  # noqa: BLE001 (the database is unavailable, for whatever reason)
        return


async def _connection_budget(settings: PlatformSettings, processes: int) -> str:
    budget = await _budget(settings, processes, 0, *_reserved_connections(settings))
    if settings.database_replica_url:
        reserved = settings.db_reserved_connections
        explanation = f"DB_RESERVED_CONNECTIONS={reserved}"
        standby = replica_settings(settings)
        with suppress(DatabaseUnavailable, TimeoutError):  # the service works without it
            await _budget(standby, processes, CONNECTIONS, reserved, explanation, "the standby")
    return budget


async def _budget(
    settings: PlatformSettings,
    processes: int,
    unpooled: int,
    reserved: int,
    explanation: str,
    server: str = "Postgres",
) -> str:
    """The connections to one server; raises ``CheckFailed`` if it does not allow so many.

    ``unpooled``: of a process, in addition to its pool.
    """
    if settings.db_pgbouncer:
        return "pooled by PgBouncer"
    async with _connected(settings) as connection:
        limit = int((await connection.execute(CONNECTION_LIMIT)).scalar_one())
    per_process = settings.db_pool_size + settings.db_max_overflow + unpooled
    total = settings.max_replicas * processes * per_process
    budget = f"{processes} processes x {per_process} connections = {total}"
    if settings.max_replicas > 1:
        budget = f"{settings.max_replicas} replicas x {budget}"
    if total > limit - reserved:
        raise CheckFailed(
            f"MAX_REPLICAS, WEB_CONCURRENCY, DB_POOL_SIZE, DB_MAX_OVERFLOW: {budget}, but {server}"
            f" allows {limit}, of which {explanation} are reserved. Lower one of them, raise"
            " max_connections, or put PgBouncer in between and set DB_PGBOUNCER=true."
        )
    return f"{budget}, of {limit}, of which {explanation} are reserved"


def _reserved_connections(settings: PlatformSettings) -> tuple[int, str]:
    """Connections reserved for other processes, and how they add up.

    ``DB_RESERVED_CONNECTIONS`` covers all of them when it is set and large enough; otherwise one
    background process of each kind is added to it.
    """
    reserved, background = settings.db_reserved_connections, background_connections(settings)
    explanation = [f"DB_RESERVED_CONNECTIONS={reserved}"]
    if "db_reserved_connections" not in settings.model_fields_set or (
        reserved < sum(background.values())
    ):
        reserved += sum(background.values())
        explanation += [f"{count} of {name}" for name, count in background.items()]
    return reserved, " + ".join(explanation)


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


async def _replica(settings: PlatformSettings) -> str:
    if not settings.database_replica_url:
        return "none"
    try:
        async with _connected(replica_settings(settings)) as connection:
            is_standby = (await connection.execute(IN_RECOVERY)).scalar_one()
    except (DatabaseUnavailable, TimeoutError):
        raise CheckWarning("the standby does not answer, so reads go to the primary") from None
    if not is_standby:
        raise CheckWarning("DATABASE_REPLICA_URL is not a standby, so reads go to the primary")
    return "a standby"


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
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415 (0.3 s at every start)

    from app.platform.data import revisions  # noqa: PLC0415 (0.3 s at every start)

    def missing(connection: Connection) -> list[str]:
        heads = MigrationContext.configure(connection).get_current_heads()
        return revisions.missing_revisions(heads, revisions.release_scripts())

    async with _connected(settings) as connection:
        return await connection.run_sync(missing)


async def _traces(settings: PlatformSettings) -> str:
    try:
        return await tracing.check_export(settings)
    except tracing.NotExported as error:
        raise CheckWarning(str(error)) from None


async def _allowed_hosts(settings: PlatformSettings) -> str:
    if settings.is_deployed and "*" in settings.allowed_hosts:
        raise CheckWarning("ALLOWED_HOSTS is *, so any Host header is accepted; list your hosts")
    return f"serves {', '.join(settings.allowed_hosts)}"


async def _timeouts(settings: PlatformSettings) -> str:
    if wrong := out_of_order(settings):
        raise CheckFailed("; ".join(wrong))
    return f"{len(pairs(type(settings)))} in order"


CHECKS: dict[str, Callable[[PlatformSettings], Awaitable[str]]] = {
    "database": _postgres,
    "connections": _connections,
    "migrations": _migrations,
    "replica": _replica,
    "redis": _redis,
    "traces": _traces,
    "hosts": _allowed_hosts,
    "timeouts": _timeouts,
}


async def run_checks(settings: PlatformSettings) -> int:
    """Print one line for each check; return 0 if all passed, else 1."""
    count = len(type(settings).model_fields)
    _print_result("ok", "settings", f"{settings.environment}, {count} settings valid")
    for hint in variable_hints(type(settings)):
        _print_result("warning", "settings", hint)
    passed = [await _run_check(name, check, settings) for name, check in CHECKS.items()]
    return 0 if all(passed) else 1


async def _run_check(
    name: str, check: Callable[[PlatformSettings], Awaitable[str]], settings: PlatformSettings
) -> bool:
    """Run a check and print its result; return whether it passed."""
    start = time.perf_counter()
    try:
        result = await check(settings)
    except CheckWarning as warning:
        _print_result("warning", name, str(warning))
    except CheckFailed as error:
        _print_result("failed", name, str(error))
        return False
    except TimeoutError:
        _print_result("failed", name, f"no answer within {CHECK_TIMEOUT:g} s")
        return False
    except Exception as error:  # noqa: BLE001 (any driver's error fails the check)
        reason = error.__cause__ if isinstance(error, DatabaseUnavailable) else error
        message = str(reason).partition("\n")[0]
        _print_result("failed", name, f"{type(reason).__name__}: {message}")
        return False
    else:
        _print_result("ok", name, f"{result} ({(time.perf_counter() - start) * 1000:.0f} ms)")
    return True


def _print_result(status: str, name: str, detail: str) -> None:
    colour = {"ok": "green", "warning": "yellow", "failed": "red"}[status]
    click.echo(f"{click.style(f'{status:>8}', fg=colour)}  {name:<12} {detail}")
