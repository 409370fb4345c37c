"""`app check` includes the connections of background processes in its budget."""

from app.platform.jobs import capacity
from app.settings import Settings
from tests.commands import run_command


def test_check_counts_the_connections_of_background_processes(
    environment: dict[str, str], fresh_settings: Settings
) -> None:
    few = run_command("check", env={**environment, "WORKER_CONCURRENCY": "1"})
    assert few.returncode == 0, few.stdout
    many = run_command("check", env={**environment, "WORKER_CONCURRENCY": "500"})
    assert many.returncode == 1
    needed = capacity.worker_connections(
        fresh_settings.model_copy(update={"worker_concurrency": 500})
    )
    assert f"=5 + {needed} of a worker (WORKER_CONCURRENCY) are reserved" in many.stdout
    apart = {"WORKER_CONCURRENCY": "500", "WORKER_SCHEDULER": "false"}
    output = run_command("check", env={**environment, **apart}).stdout
    assert f"=5 + {needed - 1} of a worker (WORKER_CONCURRENCY) + 2 of the scheduler" in output
    sufficient = {"WORKER_CONCURRENCY": "1", "DB_RESERVED_CONNECTIONS": "60"}
    output = run_command("check", env={**environment, **sufficient}).stdout
    assert "of which DB_RESERVED_CONNECTIONS=60 are reserved" in output  # workers included
