"""The watchdog in a process that lives on. What it does to one that hangs: `tests/system/jobs`."""

import asyncio
import faulthandler
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from app.platform.jobs.store import Claim
from app.platform.jobs.watchdog import Watchdog
from app.settings import Settings


async def test_a_process_that_lives_on_is_not_ended(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("dump_traceback_later", "cancel_dump_traceback_later"):
        monkeypatch.setattr(faulthandler, name, lambda *_, n=name, **__: calls.append(n))
    loop, alive = asyncio.get_running_loop(), asyncio.Event()
    watchdog = Watchdog(settings, lambda: loop.call_soon_threadsafe(alive.set) and None)
    watchdog.start()
    await alive.wait()
    watchdog.close()
    assert calls[0] == "dump_traceback_later"
    assert calls[-1] == "cancel_dump_traceback_later"


async def test_the_job_that_blocks_the_loop_is_told_from_the_others(settings: Settings) -> None:
    watchdog = Watchdog(settings)
    watchdog._loop = asyncio.get_running_loop()
    claim = Claim(uuid4(), "a", {}, None, 1, datetime.now(UTC), "", {}, timedelta())
    with watchdog.watch(claim, 60) as blocking, watchdog.watch(claim, 60) as other:
        assert watchdog._blocking() == [blocking, other], "which one is not known"
        blocking.task = asyncio.current_task()
        assert watchdog._blocking() == [blocking]
