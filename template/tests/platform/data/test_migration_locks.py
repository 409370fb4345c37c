"""Migrating needs a direct connection to Postgres."""

from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.platform.data.migration_locks import ADVISORY_LOCK, acquire_advisory_lock
from app.settings import Settings
from tests.commands import run_command
from tests.conftest import open_connection

NO_SERVER = "postgresql+asyncpg://nobody@127.0.0.1:1/nothing"


def test_migrating_through_pgbouncer_is_refused(environment: dict[str, str]) -> None:
    refused = run_command("migrate", env={**environment, "DB_PGBOUNCER": "true"})
    assert refused.returncode == 2
    assert "MIGRATION_DATABASE_URL: is missing, and DB_PGBOUNCER is true" in refused.stderr
    assert "Set it to the address of Postgres itself" in refused.stderr


def test_migrations_go_to_their_own_url(environment: dict[str, str]) -> None:
    direct = environment["DATABASE_URL"]
    changes = {"DATABASE_URL": NO_SERVER, "DB_PGBOUNCER": "true", "MIGRATION_DATABASE_URL": direct}
    migrated = run_command("migrate", env={**environment, **changes})
    assert migrated.returncode == 0, migrated.stderr
    assert migrated.stderr == "All migrations are applied.\n"  # the database of a test has them


def test_a_database_that_refuses_the_connection_is_one_sentence(
    environment: dict[str, str],
) -> None:
    failed = run_command("migrate", env={**environment, "DATABASE_URL": NO_SERVER})
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: Can't connect to Postgres: ")
    assert len(failed.stderr.splitlines()) == 1


async def test_the_lock_of_migrators_excludes_others_until_its_connection_ends(
    fresh_settings: Settings,
) -> None:
    url = make_url(fresh_settings.database_url.get_secret_value())
    free = text(f"SELECT pg_try_advisory_lock({ADVISORY_LOCK})")
    async with open_connection(url) as other:
        async with open_connection(url) as migrator:
            await migrator.run_sync(acquire_advisory_lock)
            assert not await other.scalar(free)
        assert await other.scalar(free)
