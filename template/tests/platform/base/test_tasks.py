"""Tasks that end when they are told to."""

import asyncio

from app.platform.base.tasks import cancel


async def test_a_task_that_loses_cancellations_is_cancelled_until_it_ends() -> None:
    lost = 0

    async def work() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
                if lost == 3:
                    raise

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await cancel(task, interval=0.01)
    assert task.cancelled()
    assert lost == 3


async def test_the_error_of_a_task_that_is_cancelled_is_not_raised() -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise RuntimeError("while it cleaned up")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await cancel(task)
    assert task.done()
