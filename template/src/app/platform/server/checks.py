"""Whether this environment is one that the service can work in: ``app check``, and at boot."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import click
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.platform.base.cpus import available_cpus
from app.platform.data.database import create_engine
from app.platform.jobs import connections as beside_the_api
from app.platform.data.redis import create_client
from app.settings import Settings, SettingsError, get_settings
from app.platform.settings.sources import NOTHING_STARTED

TIMEOUT = 5.0  # seconds that a dependency has to answer

LIMIT = text(
    "SELECT current_setting('max_connections')::int"
    " - current_setting('superuser_reserved_connections')::int"
)


class Wrong(Exception):
    """What keeps the service from working."""


class Doubtful(Exception):
    """What works, and is seldom meant."""


async def refuse_too_many_connections(settings: Settings, processes: int) -> None:
    """Raise ``SettingsError`` if replicas with so many processes may open too many connections.

    A database that does not answer refuses nothing: the service starts, and is ready when it is.
    """
    try:
        await _arithmetic(settings, processes)
    except Wrong as error:
        raise SettingsError(f"{NOTHING_STARTED}\n  {error}") from None
    except Exception:  # noqa: BLE001 (away, for whatever reason)
        return


async def _arithmetic(settings: Settings, processes: int) -> str:
    if settings.db_pgbouncer:
        return "PgBouncer does the pooling"
    async with _connected(settings) as connection:
        allowed = int((await connection.execute(LIMIT)).scalar_one())
    each = settings.db_pool_size + settings.db_max_overflow
    most = settings.max_replicas * processes * each
    sum_ = f"{processes} processes x {each} connections = {most}"
    if settings.max_replicas > 1:
        sum_ = f"{settings.max_replicas} replicas x {sum_}"
    left, why = _left_for_others(settings)
    if most > allowed - left:
        raise Wrong(
            f"MAX_REPLICAS, WEB_CONCURRENCY, DB_POOL_SIZE, DB_MAX_OVERFLOW: {sum_}, but Postgres"
            f" allows {allowed}, of which {why} are left for others. Lower one of them, raise"
            " max_connections, or put PgBouncer in between and set DB_PGBOUNCER=true."
        )
    return f"{sum_}, of {allowed}, of which {why} are left for others"


def _left_for_others(settings: Settings) -> tuple[int, str]:
    """Return how many connections the API must leave, and whose they are.

    ``DB_CONNECTIONS_SPARE`` counts all others when it is given; if it is not, or says too little,
    one process of each kind that runs beside the API is counted here.
    """
    spare, beside = settings.db_connections_spare, beside_the_api(settings)
    opened, why = sum(beside.values()), f"DB_CONNECTIONS_SPARE={spare}"
    if "db_connections_spare" in settings.model_fields_set and spare >= opened:
        return spare, why
    return spare + opened, " + ".join([why, *(f"{n} of {name}" for name, n in beside.items())])


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[AsyncConnection]:
    engine = create_engine(settings)
    try:
        async with asyncio.timeout(TIMEOUT), engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def _postgres(settings: Settings) -> str:
    async with _connected(settings) as connection:
        version = (await connection.execute(text("SHOW server_version"))).scalar_one()
    return f"Postgres {version}"


async def _redis(settings: Settings) -> str:
    async with asyncio.timeout(TIMEOUT), create_client(settings) as client:
        info = await client.info("server")
    return f"Redis {info['redis_version']}"


async def _connections(settings: Settings) -> str:
    return await _arithmetic(settings, settings.web_concurrency or available_cpus())


async def _migrations(settings: Settings) -> str:
    if missing := await _missing_revisions(settings):
        raise Wrong(f"{len(missing)} not applied ({', '.join(missing)}): run `app migrate`")
    return "all applied"


async def _missing_revisions(settings: Settings) -> list[str]:
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from app.platform.data.revisions import of_present_parts

    scripts = ScriptDirectory.from_config(Config(toml_file="pyproject.toml"))

    def missing(connection: Connection) -> list[str]:
        heads = MigrationContext.configure(connection).get_current_heads()
        applied = of_present_parts(heads, scripts)
        done = {script.revision for script in scripts.iterate_revisions(applied, "base")}
        return sorted(s.revision for s in scripts.walk_revisions() if s.revision not in done)

    async with _connected(settings) as connection:
        return await connection.run_sync(missing)


async def _exposure(settings: Settings) -> str:
    if settings.environment == "production" and "*" in settings.allowed_hosts:
        raise Doubtful("ALLOWED_HOSTS is *: any Host header is answered; name yours")
    return f"answers for {', '.join(settings.allowed_hosts)}"


CHECKS: dict[str, Callable[[Settings], Awaitable[str]]] = {
    "database": _postgres,
    "connections": _connections,
    "migrations": _migrations,
    "redis": _redis,
    "hosts": _exposure,
}


async def examine() -> int:
    """Print one line for each check; return 0 when nothing is wrong, 1 otherwise."""
    settings = get_settings()
    _line("ok", "settings", f"{settings.environment}, {len(Settings.model_fields)} settings valid")
    results = [await _examine(name, check, settings) for name, check in CHECKS.items()]
    return 0 if all(results) else 1


async def _examine(
    name: str, check: Callable[[Settings], Awaitable[str]], settings: Settings
) -> bool:
    start = time.perf_counter()
    try:
        found = await check(settings)
    except Doubtful as doubt:
        _line("warning", name, str(doubt))
    except Wrong as error:
        _line("wrong", name, str(error))
        return False
    except TimeoutError:
        _line("wrong", name, f"no answer within {TIMEOUT:g} s")
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
