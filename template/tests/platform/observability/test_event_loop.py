"""What blocks the event loop is named in the log, and nothing else is."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvloop

from app.platform.http import routing
from app.platform.observability import event_loop, logs
from app.settings import Settings
from tests.conftest import client_for, running_platform


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    return [line for line in found if line["logger"] == event_loop.__name__]


async def test_the_log_names_the_line_that_blocks_while_it_blocks_and_metrics_count_it(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    deadline = time.monotonic() + 20
    written: list[dict[str, Any]] = []

    def read() -> None:
        found = [line for line in lines(capfd) if " in block" in line.get("stack", " in block")]
        written.extend(found)

    async with running_platform(settings.model_copy(update={"loop_block_ms": 20})) as app:

        async def block() -> None:
            while not written and time.monotonic() < deadline:
                time.sleep(0.01)  # noqa: ASYNC251 (the blocking call under test)
                read()

        app.add_api_route("/block", block)
        routing.install_index(app)
        async with client_for(app) as client:
            capfd.readouterr()
            await client.get("/block", headers={"X-Request-ID": "r-1"})
            while len(written) < 2 and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
                read()
            scraped = (await client.get("/metrics")).text
    first, last = written
    assert first["event"] == "event loop blocked"
    assert " in block" in first["stack"]
    assert last["event"] == "event loop answers again"
    assert last["line"] == first["line"]
    assert last["blocked_ms"] >= 20
    assert "event_loop_blocks_total " in scraped
    assert "event_loop_blocks_total 0.0" not in scraped
    assert "event_loop_blocked_seconds_total 0.0\n" not in scraped
    if sys.version_info >= (3, 12):  # the first whose tasks tell their context
        assert (first["request_id"], first["route"]) == ("r-1", "GET /block")


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_loop_that_waits_is_not_named_when_the_process_gets_no_cpu_time(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    detector = event_loop.Detector(0.001)

    def is_seen_to_wait() -> bool:
        deadline = time.monotonic() + 10
        while detector.busy_frame() and time.monotonic() < deadline:
            time.sleep(0.001)
        return detector.busy_frame() is None

    async def wait() -> bool:
        detector.start()
        while detector._runner is None:  # noqa: ASYNC110 (another thread sets it)
            await asyncio.sleep(0.001)
        assert detector.busy_frame()
        detector.close()
        return await asyncio.to_thread(is_seen_to_wait)

    with ThreadPoolExecutor(1) as thread, asyncio.Runner(loop_factory=new_loop) as runner:
        assert thread.submit(runner.run, wait()).result()


def test_the_line_is_the_innermost_one_of_the_service_or_else_of_what_it_called() -> None:
    found: list[str] = []

    class Slow:
        def __str__(self) -> str:
            found.append(event_loop.blocking_line(sys._getframe()))
            return "slow"

    logs.to_json({"value": Slow()})
    str(Slow())
    assert found[0].startswith("platform/observability/logs.py:")
    assert found[0].endswith(" in to_json")
    assert found[1].startswith(__file__)


async def test_with_zero_no_thread_watches(settings: Settings) -> None:
    def watching() -> int:
        return sum(each.name == "event loop detector" for each in threading.enumerate())

    before = watching()
    async with running_platform(settings.model_copy(update={"loop_block_ms": 0})):
        assert watching() == before
    async with running_platform(settings.model_copy(update={"loop_block_ms": 250})):
        assert watching() == before + 1
