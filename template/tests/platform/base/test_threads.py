"""Synchronous code runs in at most ``THREAD_POOL_SIZE`` threads."""

import asyncio
import threading

import pytest

from app.settings import Settings
from tests.conftest import client_for, running_platform

SIZE = 2


@pytest.mark.parametrize("kind", ["route", "to_thread"])
async def test_synchronous_code_has_as_many_threads_as_configured(
    module_settings: Settings, kind: str
) -> None:
    loop = asyncio.get_running_loop()
    full, release = asyncio.Event(), threading.Event()
    running: list[int] = []

    def block() -> None:
        running.append(1)
        if len(running) == SIZE:
            loop.call_soon_threadsafe(full.set)
        assert release.wait(10)

    async def block_in_thread() -> None:
        await asyncio.to_thread(block)

    settings = module_settings.model_copy(update={"thread_pool_size": SIZE})
    async with running_platform(settings) as app, client_for(app) as client:
        app.add_api_route("/block", block if kind == "route" else block_in_thread)
        requests = [asyncio.create_task(client.get("/block")) for _ in range(SIZE * 2)]
        try:
            async with asyncio.timeout(10):
                await full.wait()
            await asyncio.sleep(0.05)  # in which a third would start
            assert len(running) == SIZE
        finally:
            release.set()
        assert [response.status_code for response in await asyncio.gather(*requests)] == [200] * 4
