"""Runs inside a generated service: the service through a real PgBouncer in transaction mode."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.platform.data.engine import create_engine
from app.platform.dev.servers import postgres
from app.settings import Settings
from tests.actors import sign_in
from tests.commands import run_command
from tests.conftest import client_for, open_connection, running_app, running_platform
from tests.system.standby import Standby
from tests.system.test_replica import MAX_LAG, Service, execute, read, write

SERVER_CONNECTIONS = 3
CLIENTS = 40
ROUNDS = 5

CONFIGURATION = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 500
auth_type = any
ignore_startup_parameters = statement_timeout, idle_in_transaction_session_timeout
"""


@pytest.fixture
def through(fresh_settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """The settings of a service whose database is a PgBouncer with few server connections."""
    with pooler(fresh_settings.database_url.get_secret_value(), tmp_path) as proxied:
        changes = {"database_url": proxied, "db_pgbouncer": True, "rate_limit": "off"}
        yield Settings.model_validate({**fresh_settings.model_dump(), **changes})


@contextlib.contextmanager
def pooler(database_url: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a database through a PgBouncer with few connections to its server."""
    url = make_url(database_url)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = free.getsockname()[1]
    file = tmp_path / f"pgbouncer-{listen}.ini"
    file.write_text(
        CONFIGURATION.format(
            host=url.host, port=url.port, user=url.username, listen=listen, size=SERVER_CONNECTIONS
        )
    )
    command = [shutil.which("pgbouncer") or "/usr/sbin/pgbouncer", "-q", str(file)]
    if os.geteuid() == 0:  # which it refuses to run as
        for folder in (tmp_path, *tmp_path.parents[:2]):
            folder.chmod(0o755)
        command[1:1] = ["-u", "nobody"]
    process = subprocess.Popen(command)
    try:
        _wait_for(listen)
        yield url.set(host="127.0.0.1", port=listen).render_as_string(hide_password=False)
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("PgBouncer does not listen")


async def test_many_clients_share_few_server_connections(
    through: Settings, fresh_settings: Settings
) -> None:
    direct = make_url(fresh_settings.database_url.get_secret_value())
    count = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    statuses: Counter[int] = Counter()

    async def use(client: httpx2.AsyncClient, number: int) -> None:
        for _ in range(ROUNDS):
            made = await client.post("/api/v1/items", json={"name": f"Item {number}"})
            where = made.headers["Location"]
            changed = await client.patch(where, json={"name": "Changed"})
            read = await client.get(where)
            assert read.json()["name"] == "Changed"
            listed = await client.get("/api/v1/items", params={"limit": 5})
            export = await client.post("/api/v1/items/export")
            statuses.update(a.status_code for a in (made, changed, read, listed, export))

    async with running_app(through) as app, client_for(app) as client:
        client.headers.update(await sign_in(client, "alice@example.com"))
        await asyncio.gather(*(use(client, number) for number in range(CLIENTS)))
        async with open_connection(direct) as connection:
            connections = (await connection.execute(count)).scalar_one()
    n = CLIENTS * ROUNDS
    assert statuses == {201: n, 200: 3 * n, 202: n}
    assert connections - 1 <= SERVER_CONNECTIONS


@pytest.mark.parametrize("lost", ["standby", "pooler"])
async def test_reads_of_a_standby_behind_a_pgbouncer_of_its_own_are_never_too_late(
    fresh_settings: Settings, tmp_path: Path, lost: str
) -> None:
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(postgres())
        await execute(
            make_url(primary),
            "ALTER DATABASE postgres SET synchronous_commit = on",
            "CREATE TABLE rows_of_a_test (number int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
        )
        standby = Standby(primary)
        stack.enter_context(standby.running())
        in_front = stack.enter_context(contextlib.ExitStack())  # of the standby
        changes = {
            "database_url": stack.enter_context(pooler(primary, tmp_path)),
            "database_replica_url": in_front.enter_context(pooler(standby.url, tmp_path)),
            "db_pgbouncer": True,
            "db_replica_max_lag": MAX_LAG,
            "db_statement_timeout": 1.0,
        }
        settings = Settings.model_validate({**fresh_settings.model_dump(), **changes})
        async with running_platform(settings) as app, client_for(app) as client:
            app.add_api_route("/read", read)
            app.add_api_route("/write", write, methods=["POST"])
            service = Service(app, client)
            await service.until_read_from(standby=True)
            await execute(make_url(standby.url), "SELECT pg_wal_replay_pause()")
            await service.until_read_from(standby=False)  # each read checks how late it is
            await execute(make_url(standby.url), "SELECT pg_wal_replay_resume()")
            await service.until_read_from(standby=True)
            if lost == "standby":
                standby.send(signal.SIGKILL)
            else:
                in_front.close()
            await asyncio.gather(*(service.read() for _ in range(30)))
            newest = await service.write()
            assert await service.read() == (newest, False)


def _environment(environment: dict[str, str], pooler: str, **changes: str) -> dict[str, str]:
    return {**environment, "DATABASE_URL": pooler, **changes}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"DB_PGBOUNCER": "true"}, "is missing, and DB_PGBOUNCER is true"),
        ({}, "leads to a connection pooler"),
        ({"MIGRATION_DATABASE_URL": "{pooler}", "DB_PGBOUNCER": "true"}, "leads to a connection"),
    ],
    ids=["declared", "undeclared", "for migrations"],
)
def test_migrating_through_it_is_refused_and_leaves_nothing_behind(
    through: Settings,
    fresh_settings: Settings,
    environment: dict[str, str],
    changes: dict[str, str],
    reason: str,
) -> None:
    pooler = through.database_url.get_secret_value()
    changes = {name: value.format(pooler=pooler) for name, value in changes.items()}
    refused = run_command("migrate", env=_environment(environment, pooler, **changes))
    assert (refused.returncode, refused.stderr.count(reason)) == (2, 1), refused.stderr
    assert asyncio.run(_session_state(through, fresh_settings)) == (0, {"0"})


def test_migrating_past_it_works_and_leaves_nothing_behind(
    through: Settings, fresh_settings: Settings, environment: dict[str, str]
) -> None:
    direct = fresh_settings.database_url.get_secret_value()
    pooler = through.database_url.get_secret_value()
    changes = {"DB_PGBOUNCER": "true", "MIGRATION_DATABASE_URL": direct}
    for _ in range(2):
        migrated = run_command("migrate", env=_environment(environment, pooler, **changes))
        assert migrated.returncode == 0, migrated.stderr
    assert asyncio.run(_session_state(through, fresh_settings)) == (0, {"0"})


async def _session_state(through: Settings, fresh_settings: Settings) -> tuple[int, set[str]]:
    """Advisory locks that are held, and the lock timeouts of all pooled server connections."""
    locks = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    async with open_connection(make_url(fresh_settings.database_url.get_secret_value())) as direct:
        held = await direct.scalar(locks)
    engine = create_engine(through)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        timeouts = set()
        for _ in range(SERVER_CONNECTIONS):  # each in a transaction of its own, at once
            connection = await stack.enter_async_context(engine.connect())
            timeouts.add(await connection.scalar(text("SHOW lock_timeout")))
    return held or 0, timeouts
