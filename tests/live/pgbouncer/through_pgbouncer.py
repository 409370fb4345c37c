"""Runs inside a generated service: the service through a real PgBouncer in transaction mode."""

import asyncio
import os
import shutil
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

from app.settings import Settings
from tests.actors import sign_in
from tests.conftest import client_for, open_connection, running_app

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
"""


@pytest.fixture
def through(fresh_settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """The settings of a service whose database is a PgBouncer with few server connections."""
    url = make_url(fresh_settings.database_url.get_secret_value())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = free.getsockname()[1]
    file = tmp_path / "pgbouncer.ini"
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
        proxied = url.set(host="127.0.0.1", port=listen).render_as_string(hide_password=False)
        changes = {"database_url": proxied, "db_pgbouncer": True, "rate_limit": "off"}
        yield Settings.model_validate({**fresh_settings.model_dump(), **changes})
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
