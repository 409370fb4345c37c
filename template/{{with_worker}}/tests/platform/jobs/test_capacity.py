"""The connections of workers count among those that Postgres has to allow."""

from app.platform.jobs import capacity
from app.settings import Settings
from tests.commands import run_command


def test_check_counts_the_connections_of_workers(
    environment: dict[str, str], fresh_settings: Settings
) -> None:
    few = run_command("check", env={**environment, "WORKER_CONCURRENCY": "1"})
    assert few.returncode == 0, few.stdout
    many = run_command("check", env={**environment, "WORKER_CONCURRENCY": "500"})
    assert many.returncode == 1
    counted = capacity.worker_connections(
        fresh_settings.model_copy(update={"worker_concurrency": 500})
    )
    said = f"=5 + {counted} of a worker (WORKER_CONCURRENCY) + 2 of the scheduler are reserved"
    assert said in many.stdout
    given = {"WORKER_CONCURRENCY": "1", "DB_RESERVED_CONNECTIONS": "60"}
    said = run_command("check", env={**environment, **given}).stdout
    assert "of which DB_RESERVED_CONNECTIONS=60 are reserved" in said  # workers are among the 60
