"""Redis is away, slow, hung, empty, full, another one: requests go on, and jobs are late at most.

Gunicorn with two workers, a job worker and a scheduler reach Redis on a way that can break.
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
    PATIENCE,
    Load,
    Machine,
    Way,
    eventually,
    is_clear,
    load,
    machine,
    ready,
    serving,
    way,
)
from tests.fire.conftest import FULL, Note
from tests.system.jobs.conftest import Process
from tests.system.serving import Server

BOTH, NOTHING, CACHE = "/api/v1/fire/both", "/api/v1/fire/nothing", "/api/v1/fire/cache"
MANY = 600 if FULL else 60  # requests that are answered during each fault
# Seconds that no answer may take: what Redis has to count a request, twice, and as much as a busy
# machine may stall.
BOUND = 7.0
PLENTY = "100000/minute"


@pytest.fixture
def two() -> Iterator[tuple[Machine, Machine]]:
    """Two servers that forget everything when they end."""
    options = ("--enable-debug-command", "local")
    with machine(VALKEY, *options, durable=False) as one, machine(VALKEY, durable=False) as other:
        yield one, other


@pytest.fixture
def link(two: tuple[Machine, Machine]) -> Iterator[Way]:
    """The way on which the service finds Redis: the first one, to begin with."""
    with way(two[0].port) as link:
        yield link


@pytest.fixture
def around(environment: dict[str, str], link: Way) -> dict[str, str]:
    """The environment of a service whose Redis is at the end of the way."""
    return {**environment, "REDIS_URL": f"redis://127.0.0.1:{link.port}/0", "RATE_LIMIT": PLENTY}


@pytest.fixture
def jobs(around: dict[str, str], tmp_path: Path) -> Iterator[list[Process]]:
    """A worker and a scheduler that look often; a lost job is late by 20 seconds at most."""
    often = {"JOBS_POLL_INTERVAL": "0.2", "JOBS_REPUBLISH_AFTER": "2", "TMPDIR": str(tmp_path)}
    commands = ("worker", "scheduler")
    processes = [Process(name, around | often, tmp_path / f"{name}.log") for name in commands]
    yield processes
    for process in processes:
        process.stop()


def killed(one: Machine, link: Way) -> None:
    one.kill()


def unreachable(one: Machine, link: Way) -> None:
    link.cut()


def hung(one: Machine, link: Way) -> None:
    one.signal(signal.SIGSTOP)


def very_slow(one: Machine, link: Way) -> None:
    link.delay = 3.0


def slow(one: Machine, link: Way) -> None:
    link.delay = 0.3


def flushed(one: Machine, link: Way) -> None:
    one_redis(one).flushall()
    one_redis(one).script_flush()


def full(one: Machine, link: Way) -> None:
    one_redis(one).config_set("maxmemory", 1)


def without_replicas(one: Machine, link: Way) -> None:
    one_redis(one).config_set("min-replicas-to-write", 1)


def on_a_full_disk(one: Machine, link: Way) -> None:
    redis = one_redis(one)
    redis.config_set("save", "3600 1")
    snapshot(one).unlink(missing_ok=True)
    snapshot(one).mkdir()  # so that it can't be written
    redis.bgsave()
    eventually(lambda: redis.info("persistence")["rdb_last_bgsave_status"] == "err")


def loading(one: Machine, link: Way) -> None:
    """Have it read its data again, slowly. It answers whatever it is asked with LOADING."""
    redis = one_redis(one)
    # Not to be compressed: it looks who asks once for each KB that it has read.
    redis.mset({f"fire:{n}": token_hex(1000) for n in range(1000)})
    redis.config_set("loading-process-events-interval-bytes", 1024)
    redis.config_set("key-load-delay", 100_000)  # microseconds
    with socket.create_connection(("127.0.0.1", one.port)) as connection:
        connection.sendall(b"DEBUG RELOAD\r\n")
        eventually(lambda: redis.info("persistence")["loading"] == 1)


def busy(one: Machine, link: Way) -> None:
    """Have it run a script that does not end, and say so."""
    redis = one_redis(one)
    redis.config_set("busy-reply-threshold", 100)  # milliseconds

    def endless() -> None:
        with suppress(RedisError):
            one_redis(one).eval("while true do end", 0)

    Thread(target=endless).start()
    eventually(lambda: refused(redis))


def refused(redis: Redis) -> bool:
    try:
        return not redis.ping()
    except ResponseError:
        return True


def snapshot(server: Machine) -> Path:
    return server.folder / "data" / "dump.rdb"


def one_redis(server: Machine) -> Redis:
    return Redis.from_url(server.url)


def mend(one: Machine, link: Way) -> None:
    """Take back whatever was done."""
    link.delay = 0.0
    link.mend()
    one.signal(signal.SIGCONT)
    if not one.runs:
        one.start()
    redis = one_redis(one)
    with suppress(RedisError):
        redis.script_kill()
        eventually(lambda: not refused(redis))  # it ends a little after that is answered
    for setting in ("maxmemory", "min-replicas-to-write", "key-load-delay"):
        redis.config_set(setting, 0)
    redis.config_set("save", "")
    if snapshot(one).is_dir():
        snapshot(one).rmdir()


# What readiness says of each, and whether a route that needs Redis can be answered.
FAULTS: dict[Callable[[Machine, Way], None], tuple[str, bool]] = {
    killed: ("degraded", False),
    unreachable: ("degraded", False),
    hung: ("degraded", False),
    very_slow: ("degraded", False),
    loading: ("degraded", False),
    full: ("ready", False),
    without_replicas: ("ready", False),
    # These answer no PING either.
    on_a_full_disk: ("degraded", False),
    busy: ("degraded", False),
    slow: ("ready", True),
    flushed: ("ready", True),
}


def count(around: dict[str, str], statement: str) -> int:
    """Return the one number that a statement selects."""
    found: list[int] = []

    async def run() -> None:
        async with open_connection(make_url(around["DATABASE_URL"])) as connection:
            found.append((await connection.execute(text(statement))).scalar_one())

    run_sync(run())
    return found[0]


def check_fault(
    server: Server, answers: Load, fault: Callable[[Machine, Way], None], one: Machine, link: Way
) -> float:
    """Have a fault under load and mend it; return how long the longest answer took."""
    says, answerable = FAULTS[fault]
    before = len(answers.answers)
    fault(one, link)
    asked = httpx2.post(server.url + CACHE, timeout=PATIENCE)
    assert asked.is_success if answerable else is_clear(asked), asked.text
    assert asked.elapsed.total_seconds() < BOUND
    many = before + MANY
    eventually(lambda: len(answers.answers) >= many, lambda: "requests wait", PATIENCE + MANY)
    eventually(lambda: ready(server) == says, lambda: f"{fault.__name__} is {ready(server)}")
    during = answers.answers[before:]
    mend(one, link)
    eventually(lambda: ready(server) == "ready")
    eventually(lambda: httpx2.post(server.url + CACHE, timeout=PATIENCE).is_success)
    return round(max(answer.seconds for answer in during), 1)


def test_requests_go_on_without_redis_and_no_job_is_lost(
    two: tuple[Machine, Machine],
    link: Way,
    around: dict[str, str],
    jobs: list[Process],
    tmp_path: Path,
    note: Note,
) -> None:
    one, other = two
    with serving(around, tmp_path) as server:
        with load(server, NOTHING, BOTH, NOTHING, clients=3) as answers:
            answers.recovers()
            longest = {
                f"longest while {fault.__name__}, s": check_fault(server, answers, fault, one, link)
                for fault in FAULTS
            }
            one_redis(one).replicaof("127.0.0.1", other.port)
            link.target = other.port  # for who connects from now on
            eventually(lambda: httpx2.post(server.url + CACHE, timeout=PATIENCE).is_success)
            eventually(lambda: one_redis(other).exists("limit:default:127.0.0.1") == 1)
        wrote = [answer for answer in answers.answers if answer.path == BOTH]
        waiting = "SELECT count(*) FROM jobs WHERE status <> 'succeeded'"
        eventually(
            lambda: count(around, waiting) == 0 or not all(process.runs() for process in jobs),
            lambda: f"{count(around, waiting)} of {len(wrote)} jobs wait",
            5 * PATIENCE,
        )
        assert all(process.runs() for process in jobs), [process.lines()[-5:] for process in jobs]
        assert count(around, "SELECT count(*) FROM jobs") == len(wrote)
        other.signal(signal.SIGSTOP)
        httpx2.post(server.url + BOTH, params={"name": "last"}, timeout=PATIENCE)
        assert server.stop(40) == 0, "it can't stop while Redis hangs"
    assert not answers.bad
    assert set(answers.outcomes) == {"200"}
    assert max(longest.values()) < BOUND
    note(**answers.figures, faults=len(FAULTS) + 1, jobs=len(wrote), **longest)


def test_limits_that_fail_closed_refuse_until_redis_is_there(
    two: tuple[Machine, Machine], link: Way, around: dict[str, str], tmp_path: Path, note: Note
) -> None:
    link.cut()
    with serving(around, tmp_path, RATE_LIMIT_FAIL_OPEN="false") as server:
        with load(server, NOTHING, clients=3) as answers:
            answers.fails()
            assert ready(server) == "degraded"
            assert {answer.status for answer in answers.answers} == {503}
            link.mend()
            answers.recovers()
            two[0].kill()
            answers.fails()
            two[0].start()
            seconds = answers.recovers()
        assert server.stop() == 0
    assert not answers.bad
    assert answers.longest < BOUND
    note(**answers.figures, seconds_until_served=seconds)


def test_jobs_are_handed_to_the_redis_that_takes_over(
    two: tuple[Machine, Machine], link: Way, around: dict[str, str], tmp_path: Path
) -> None:
    one, other = two
    with serving(around, tmp_path) as server:

        def enqueued(there: Machine) -> bool:
            httpx2.post(server.url + BOTH, params={"name": "one more"}, timeout=PATIENCE)
            return one_redis(there).exists(QUEUE) == 1

        eventually(lambda: enqueued(one))
        one_redis(one).replicaof("127.0.0.1", other.port)
        link.target = other.port
        eventually(lambda: enqueued(other))
        assert server.stop() == 0
