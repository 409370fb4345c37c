"""What it costs to delete old jobs, in a table of ten million.

    uv run python benchmarks/clean_up.py [--rows 10000000] [--deletions 200000]

It starts its own Postgres, in which most jobs have finished at an even rate over twenty days, and
deletes as the scheduler does, batch by batch. About 5 GB and some minutes; nothing is asserted.
"""

import argparse
import asyncio
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
from compare import ROOT

from app.platform.data.database import open_database
from app.platform.dev.servers import services
from app.platform.jobs import store
from app.platform.jobs.scheduler import BATCH_SIZE
from app.settings import get_settings

FILL = """
    INSERT INTO jobs (id, name, arguments, status, attempts, due_at, publish_at, created_at,
        started_at, finished_at, result, request_id, carrier)
    SELECT lpad(to_hex(n), 32, '0')::uuid, 'benchmark', '{"order": 12345678, "kind": "invoice"}',
        CASE WHEN n % 1000 = 0 THEN 'dead' ELSE 'succeeded' END, 1, at, at, at, at, at,
        '{"pages": 3}', '', '{}'
    FROM (SELECT n, now() - n * interval '20 days' / $1 AS at FROM generate_series(1, $1) n) AS t
"""
STEP = 10_000  # jobs between two lines


async def delete(rows: int, deletions: int) -> None:
    settings = get_settings()
    url = settings.database_url.get_secret_value().replace("+asyncpg", "")
    connection = await asyncpg.connect(url)
    began = time.monotonic()
    await connection.execute(FILL.replace("$1", str(rows)))
    await connection.execute("ANALYZE jobs")
    size = await connection.fetchval("SELECT pg_total_relation_size('jobs') / 1e9")
    print(f"{rows} jobs, {size:.1f} GB with indexes, filled in {time.monotonic() - began:.0f} s")
    settings = settings.model_copy(update={"db_statement_timeout": 600})
    retention = settings.jobs_retention_days, settings.jobs_dead_retention_days
    async with open_database(settings) as database:
        done, began, slowest = 0, time.monotonic(), 0.0
        while done < deletions:
            batch_began = time.monotonic()
            async with database.transaction() as session:
                deleted = await store.prune(session, *retention, limit=BATCH_SIZE)
            slowest = max(slowest, time.monotonic() - batch_began)
            done += deleted
            if deleted < BATCH_SIZE:
                break
            if done % STEP == 0:
                rate = STEP / (time.monotonic() - began)
                print(f"{done} deleted: {rate:.0f} jobs/s, slowest batch {slowest * 1000:.0f} ms")
                began, slowest = time.monotonic(), 0.0
    await connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--deletions", type=int, default=200_000)
    options = parser.parse_args()
    if "FILLED" in os.environ:
        asyncio.run(delete(options.rows, options.deletions))
        return
    with services() as urls:
        variables = {**os.environ, **urls, "ENVIRONMENT": "test", "FILLED": "1"}
        variables["SECRET_KEY"] = secrets.token_hex(32)
        migrate = [sys.executable, "-m", "app", "migrate"]
        subprocess.run(migrate, cwd=ROOT, env=variables, check=True, stdout=subprocess.DEVNULL)
        again = [sys.executable, str(Path(__file__)), *sys.argv[1:]]
        subprocess.run(again, cwd=ROOT, env=variables, check=True)


if __name__ == "__main__":
    main()
