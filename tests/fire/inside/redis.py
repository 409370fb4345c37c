"""Faults of Redis under load: requests succeed, and jobs are delayed at most.

Gunicorn with two workers, a job worker and a scheduler reach Redis through a proxy.
"""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from threading import Thread

import httpx2
import pytest
from redis import Redis, RedisError, ResponseError
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.platform.dev.valkey import VALKEY
from app.platform.jobs.names import QUEUE
from tests.conftest import open_connection, run_sync
from tests.fire._outages import (
    TIMEOUT,
    Load,
    Proxy,
    ServerProcess,
    is_retryable,
    readiness,
    run_load,
    run_proxy,
    run_server,
    running_service,
    wait_until,
)
from tests.fire.conftest import FULL, Note
from tests.system.jobs.conftest import Process
from tests.system.serving import Server

BOTH, NOTHING, CACHE = "/api/v1/fire/both", "/api/v1/fire/nothing", "/api/v1/fire/cache"
REQUESTS = 600 if FULL else 60  # during each fault
# Maximum seconds of any response: twice the timeout of the rate limit, plus stalls of the machine.
MAX_SECONDS = 7.0
HIGH_RATE_LIMIT = "100000/minute"


@pytest.fixture
def two() -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Two servers without persistence."""
    options = ("--enable-debug-command", "local")
    with (
        run_server(VALKEY, *options, durable=False) as one,
        run_server(VALKEY, durable=False) as other,
    ):
        yield one, other


@pytest.fixture
def proxy(two: tuple[ServerProcess, ServerProcess]) -> Iterator[Proxy]:
    """A proxy between the service and Redis, initially the first server."""
    with run_proxy(two[0].port) as proxy:
        yield proxy


@pytest.fixture
def service_environment(environment: dict[str, str], proxy: Proxy) -> dict[str, str]:
    """The environment of a service that reaches Redis through the proxy."""
    return {
        **environment,
        "REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0",
        "RATE_LIMIT": HIGH_RATE_LIMIT,
    }


@pytest.fixture
def jobs(service_environment: dict[str, str], tmp_path: Path) -> Iterator[list[Process]]:
    """A worker and a scheduler with short intervals, which delay a lost job by at most 20 s."""
    intervals = {"JOBS_POLL_INTERVAL": "0.2", "TMPDIR": str(tmp_path)}
    commands = ("worker", "scheduler")
    processes = [
        Process(name, service_environment | intervals, tmp_path / f"{name}.log")
        for name in commands
    ]
    yield processes
    for process in processes:
        process.stop()


def killed(one: ServerProcess, proxy: Proxy) -> None:
    one.kill()


def unreachable(one: ServerProcess, proxy: Proxy) -> None:
    proxy.stop()


def hung(one: ServerProcess, proxy: Proxy) -> None:
    one.signal(signal.SIGSTOP)


def very_slow(one: ServerProcess, proxy: Proxy) -> None:
    proxy.delay = 3.0


def slow(one: ServerProcess, proxy: Proxy) -> None:
    proxy.delay = 0.3


def flushed(one: ServerProcess, proxy: Proxy) -> None:
    client_of(one).flushall()
    client_of(one).script_flush()


def full(one: ServerProcess, proxy: Proxy) -> None:
    client_of(one).config_set("maxmemory", 1)


def without_replicas(one: ServerProcess, proxy: Proxy) -> None:
    client_of(one).config_set("min-replicas-to-write", 1)


def on_a_full_disk(one: ServerProcess, proxy: Proxy) -> None:
    redis = client_of(one)
    redis.config_set("save", "3600 1")
    snapshot(one).unlink(missing_ok=True)
    snapshot(one).mkdir()  # so that it can't be written
    redis.bgsave()
    wait_until(lambda: redis.info("persistence")["rdb_last_bgsave_status"] == "err")


def loading(one: ServerProcess, proxy: Proxy) -> None:
    """Reload the data slowly, so that every command fails with LOADING."""
    redis = client_of(one)
    # Incompressible, since events are processed once per KB read.
    redis.mset({f"fire:{n}": token_hex(1000) for n in range(1000)})
    redis.config_set("loading-process-events-interval-bytes", 1024)
    redis.config_set("key-load-delay", 100_000)  # microseconds
    with socket.create_connection(("127.0.0.1", one.port)) as connection:
        connection.sendall(b"DEBUG RELOAD\r\n")
        wait_until(lambda: redis.info("persistence")["loading"] == 1)


def busy(one: ServerProcess, proxy: Proxy) -> None:
    """Run an endless script, so that every command fails with BUSY."""
    redis = client_of(one)
    redis.config_set("busy-reply-threshold", 100)  # milliseconds

    def endless() -> None:
        with suppress(RedisError):
            client_of(one).eval("while true do end", 0)

    Thread(target=endless).start()
    wait_until(lambda: rejects_commands(redis))


def rejects_commands(redis: Redis) -> bool:
    try:
        return not redis.ping()
    except ResponseError:
        return True


def snapshot(server: ServerProcess) -> Path:
    return server.folder / "data" / "dump.rdb"


def client_of(server: ServerProcess) -> Redis:
    return Redis.from_url(server.url)


def repair(one: ServerProcess, proxy: Proxy) -> None:
    """Undo any of the faults."""
    proxy.delay = 0.0
    proxy.start()
    one.signal(signal.SIGCONT)
    if not one.is_running:
        one.start()
    redis = client_of(one)
    with suppress(RedisError):
        redis.script_kill()
        wait_until(lambda: not rejects_commands(redis))  # SCRIPT KILL takes effect later
    for setting in ("maxmemory", "min-replicas-to-write", "key-load-delay"):
        redis.config_set(setting, 0)
    redis.config_set("save", "")
    if snapshot(one).is_dir():
        snapshot(one).rmdir()


# Readiness during each fault, and whether a route that requires Redis succeeds.
FAULTS: dict[Callable[[ServerProcess, Proxy], None], tuple[str, bool]] = {
    killed: ("degraded", False),
    unreachable: ("degraded", False),
    hung: ("degraded", False),
    very_slow: ("degraded", False),
    loading: ("degraded", False),
    full: ("ready", False),
    without_replicas: ("ready", False),
    # PING fails, too.
    on_a_full_disk: ("degraded", False),
    busy: ("degraded", False),
    slow: ("ready", True),
    flushed: ("ready", True),
}


def count(service_environment: dict[str, str], statement: str) -> int:
    """The number that a statement selects."""
    values: list[int] = []

    async def run() -> None:
        async with open_connection(make_url(service_environment["DATABASE_URL"])) as connection:
            values.append((await connection.execute(text(statement))).scalar_one())

    run_sync(run())
    return values[0]


def check_fault(
    server: Server,
    traffic: Load,
    fault: Callable[[ServerProcess, Proxy], None],
    one: ServerProcess,
    proxy: Proxy,
) -> float:
    """Inject a fault under load and repair it; return the seconds of the slowest response."""
    expected, succeeds = FAULTS[fault]
    before = len(traffic.results)
    fault(one, proxy)
    response = httpx2.post(server.url + CACHE, timeout=TIMEOUT)
    assert response.is_success if succeeds else is_retryable(response), response.text
    assert response.elapsed.total_seconds() < MAX_SECONDS
    enough = before + REQUESTS
    wait_until(lambda: len(traffic.results) >= enough, lambda: "requests hang", TIMEOUT + REQUESTS)
    wait_until(
        lambda: readiness(server) == expected, lambda: f"{fault.__name__} is {readiness(server)}"
    )
    during = traffic.results[before:]
    repair(one, proxy)
    wait_until(lambda: readiness(server) == "ready")
    wait_until(lambda: httpx2.post(server.url + CACHE, timeout=TIMEOUT).is_success)
    return round(max(result.seconds for result in during), 1)


def test_redis_faults_fail_no_requests_and_lose_no_jobs(
    two: tuple[ServerProcess, ServerProcess],
    proxy: Proxy,
    service_environment: dict[str, str],
    jobs: list[Process],
    tmp_path: Path,
    note: Note,
) -> None:
    one, other = two
    with running_service(service_environment, tmp_path) as server:
        with run_load(server, NOTHING, BOTH, NOTHING, clients=3) as traffic:
            traffic.wait_for_recovery()
            longest = {
                f"longest while {fault.__name__}, s": check_fault(
                    server, traffic, fault, one, proxy
                )
                for fault in FAULTS
            }
            client_of(one).replicaof("127.0.0.1", other.port)
            proxy.target = other.port  # for new connections
            wait_until(lambda: httpx2.post(server.url + CACHE, timeout=TIMEOUT).is_success)
            wait_until(lambda: client_of(other).exists("limit:default:127.0.0.1") == 1)
        wrote = [result for result in traffic.results if result.path == BOTH]
        waiting = "SELECT count(*) FROM jobs WHERE status <> 'succeeded'"
        wait_until(
            lambda: (
                count(service_environment, waiting) == 0
                or not all(process.is_running() for process in jobs)
            ),
            lambda: f"{count(service_environment, waiting)} of {len(wrote)} jobs have not run",
            5 * TIMEOUT,
        )
        assert all(process.is_running() for process in jobs), [
            process.log_lines()[-5:] for process in jobs
        ]
        assert count(service_environment, "SELECT count(*) FROM jobs") == len(wrote)
        other.signal(signal.SIGSTOP)
        httpx2.post(server.url + BOTH, params={"name": "last"}, timeout=TIMEOUT)
        assert server.stop(40) == 0, "the service does not stop while Redis hangs"
    assert not traffic.invalid
    assert set(traffic.outcomes) == {"200"}
    assert max(longest.values()) < MAX_SECONDS
    note(**traffic.figures, faults=len(FAULTS) + 1, jobs=len(wrote), **longest)


def test_fail_closed_rate_limits_reject_requests_until_redis_recovers(
    two: tuple[ServerProcess, ServerProcess],
    proxy: Proxy,
    service_environment: dict[str, str],
    tmp_path: Path,
    note: Note,
) -> None:
    proxy.stop()
    with running_service(service_environment, tmp_path, RATE_LIMIT_FAIL_OPEN="false") as server:
        with run_load(server, NOTHING, clients=3) as traffic:
            traffic.wait_for_failure()
            assert readiness(server) == "degraded"
            assert {result.status for result in traffic.results} == {503}
            proxy.start()
            traffic.wait_for_recovery()
            two[0].kill()
            traffic.wait_for_failure()
            two[0].start()
            seconds = traffic.wait_for_recovery()
        assert server.stop() == 0
    assert not traffic.invalid
    assert traffic.longest < MAX_SECONDS
    note(**traffic.figures, seconds_until_served=seconds)


def test_jobs_are_published_to_the_new_primary(
    two: tuple[ServerProcess, ServerProcess],
    proxy: Proxy,
    service_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    one, other = two
    with running_service(service_environment, tmp_path) as server:

        def receives_jobs(redis: ServerProcess) -> bool:
            httpx2.post(server.url + BOTH, params={"name": "another"}, timeout=TIMEOUT)
            return client_of(redis).exists(QUEUE) == 1

        wait_until(lambda: receives_jobs(one))
        client_of(one).replicaof("127.0.0.1", other.port)
        proxy.target = other.port
        wait_until(lambda: receives_jobs(other))
        assert server.stop() == 0
