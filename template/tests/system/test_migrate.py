"""`app migrate` beside other sessions, as a process."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.platform.data.migration_locks import ADVISORY_LOCK
from tests.conftest import ROOT, needs_migrations, open_connection

RIVAL = {"connect_args": {"server_settings": {"application_name": "rival"}}}


async def line_with(process: Process, expected: str) -> str:
    assert process.stderr
    async with asyncio.timeout(60):
        async for line in process.stderr:
            if expected in line.decode():
                return line.decode()
    raise AssertionError(f"the process ended without saying {expected!r}")


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        pytest.param(
            f"SELECT pg_advisory_lock({ADVISORY_LOCK})",
            "Waiting for another migration: process",
            id="migrator",
        ),
        pytest.param(
            "LOCK TABLE alembic_version",
            "Waiting for a lock: process",
            id="table",
            marks=needs_migrations,
        ),
    ],
)
async def test_a_migrator_that_waits_says_for_whom(
    environment: dict[str, str], statement: str, expected: str
) -> None:
    async with open_connection(make_url(environment["DATABASE_URL"]), **RIVAL) as rival:
        await rival.execute(text(statement))
        pid = await rival.scalar(text("SELECT pg_backend_pid()"))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app", "migrate", env=environment, cwd=ROOT, stderr=PIPE
        )
        line = await line_with(process, expected)
    assert f"process {pid}, rival, user " in line
    assert "idle in transaction" in line
    assert f"To end it, run SELECT pg_terminate_backend({pid});" in line
    async with asyncio.timeout(60):
        await process.communicate()
    assert process.returncode == 0
