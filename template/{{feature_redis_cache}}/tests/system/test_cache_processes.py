"""The cache between processes: one load for a thousand callers, also after a loader was killed."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest
import redis

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Start ``cache_process`` with its arguments, and wait until it is ready."""
    with ExitStack() as stack:

        def start_one(
            name: str, callers: int, what: str, cache_timeout: int
        ) -> subprocess.Popen[str]:
            arguments = [sys.executable, "-m", "tests.system.cache_process", name, str(callers)]
            process = stack.enter_context(
                subprocess.Popen(
                    [*arguments, what],
                    env=environment
                    | {"CACHE_TIMEOUT": str(cache_timeout), "REDIS_TIMEOUT": str(cache_timeout)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            assert read_line(process) == "ready"
            return process

        yield start_one


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("begin\n")
    process.stdin.flush()


def test_a_thousand_callers_in_two_processes_cause_one_load(
    start: Start, server_urls: dict[str, str]
) -> None:
    name = f"thousand.{uuid4().hex}"
    processes = [start(name, 500, "count", 30) for _ in range(2)]
    for process in processes:
        begin(process)
    assert [read_line(process) for process in processes] == ["500 1", "500 1"]
    with redis.Redis.from_url(server_urls["REDIS_URL"]) as client:
        assert client.get(f"{name}:loads") == b"1"


def test_after_a_loader_was_killed_others_load_within_the_time_of_its_lock(
    start: Start, server_urls: dict[str, str]
) -> None:
    name = f"killed.{uuid4().hex}"
    loader, waiters = start(name, 1, "hang", 3), start(name, 500, "count", 3)
    begin(loader)
    assert read_line(loader) == "loading"
    begin(waiters)
    loader.kill()
    killed = time.monotonic()
    assert read_line(waiters) == "500 2"
    # The lock: load_timeout and CACHE_TIMEOUT; then one load, on a machine that is busy.
    assert time.monotonic() - killed < 2 + 3 + 10
    with redis.Redis.from_url(server_urls["REDIS_URL"]) as client:
        assert client.get(f"{name}:loads") == b"2"
