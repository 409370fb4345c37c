"""CPU-bound work in processes: bounded, ended at its time-out and with the service."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
from anyio import BrokenWorkerProcess

from app.platform.base.errors import Unavailable
from app.platform.base.processes import ComputationTimeout, Processes, _run
from tests.conftest import ROOT
from tests.system.computations import compute, die, fail
from tests.system.serving import Serve

APP = """
from app import main
from app.platform.base.processes import ProcessesDep
from app.platform.http import routing
from tests.system.computations import compute

def create_app():
    app = main.create_app()

    async def route(processes: ProcessesDep, path: str) -> int:
        return await processes.run(compute, path, 600.0, timeout=600)

    app.add_api_route("/test/compute", route)
    routing.install_index(app)
    return app
"""


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (of other processes)
            await asyncio.sleep(0.02)


def pids(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


async def test_results_and_errors_come_from_another_process_which_is_used_again(
    tmp_path: Path,
) -> None:
    processes = Processes(size=1, queue_limit=1)
    path = str(tmp_path / "pids")
    first, second = [await processes.run(compute, path, 0.0, timeout=60) for _ in range(2)]
    assert first == second != os.getpid()
    with pytest.raises(ValueError, match="the function's own"):
        await processes.run(fail, timeout=60)


async def test_a_call_that_takes_too_long_ends_with_its_process(tmp_path: Path) -> None:
    processes = Processes(size=1, queue_limit=1)
    path = tmp_path / "pids"
    await processes.run(compute, str(path), 0.0, timeout=60)
    with pytest.raises(ComputationTimeout):
        await processes.run(compute, str(path), 600.0, timeout=1)
    await until(lambda: not is_running(pids(path)[-1]))
    assert await processes.run(compute, str(path), 0.0, timeout=60) != pids(path)[0]


async def test_a_process_that_was_killed_fails_its_call_and_no_other() -> None:
    processes = Processes(size=1, queue_limit=1)
    with pytest.raises(BrokenWorkerProcess):
        await processes.run(die, timeout=60)
    with pytest.raises(ValueError, match="the function's own"):
        await processes.run(fail, timeout=60)


async def test_calls_beyond_the_queue_are_refused_at_once(tmp_path: Path) -> None:
    processes = Processes(size=1, queue_limit=1)
    path = tmp_path / "pids"
    running = asyncio.create_task(processes.run(compute, str(path), 600.0, timeout=600))
    await until(lambda: pids(path))
    waiting = asyncio.create_task(processes.run(compute, str(path), 0.0, timeout=600))
    await until(lambda: processes.waiting == 1)
    with pytest.raises(Unavailable) as refused:
        await processes.run(compute, str(path), 0.0, timeout=30)
    assert refused.value.headers["Retry-After"] == "1"
    running.cancel()  # as the end of its request does
    assert await waiting != pids(path)[0]
    assert not is_running(pids(path)[0])


async def test_processes_end_with_the_service(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "computing_service.py").write_text(APP)
    server = await asyncio.to_thread(
        serve,
        *("gunicorn", "computing_service:create_app()", "--graceful-timeout", "8"),
        WEB_CONCURRENCY="1",
        PYTHONPATH=f"{tmp_path}:{ROOT}",
    )
    path = tmp_path / "pids"

    def request() -> None:
        with suppress(httpx2.TransportError):
            server.get(f"/test/compute?path={path}")

    client = threading.Thread(target=request)
    client.start()
    await until(lambda: pids(path))
    [child] = pids(path)
    assert await asyncio.to_thread(server.stop) == 0
    await until(lambda: not is_running(child))
    client.join()


def test_a_call_that_has_returned_has_no_alarm() -> None:
    assert _run(60, int, ("7",)) == 7
    assert signal.alarm(0) == 0, "its process would end while another call runs"


async def test_a_process_that_nobody_ends_at_its_time_out_ends_by_its_own_alarm() -> None:
    """As when the API process was killed."""
    code = (
        "import time; from app.platform.base import processes as p; p._run(0.1, time.sleep, (60,))"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await asyncio.wait_for(child.wait(), 30) == -signal.SIGALRM
