"""Calls that run together as one batch."""

import asyncio
from collections.abc import Sequence

import pytest

from app.platform.jobs.batches import Batches


async def test_calls_that_arrive_while_a_batch_runs_are_the_next_one() -> None:
    batches: list[list[int]] = []
    began = asyncio.Event()

    async def double(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        began.set()
        await asyncio.sleep(0)
        return [2 * item for item in items]

    run = Batches(double)
    first = asyncio.create_task(run(1))
    await began.wait()
    assert await asyncio.gather(first, run(2), run(3)) == [2, 4, 6]
    assert batches == [[1], [2, 3]]


async def test_an_error_fails_the_calls_of_its_batch_alone() -> None:
    async def refuse_odd(items: Sequence[int]) -> Sequence[int]:
        if any(item % 2 for item in items):
            raise ValueError("odd")
        return items

    run = Batches(refuse_odd)
    failed = await asyncio.gather(run(1), run(2), return_exceptions=True)
    assert [str(error) for error in failed] == ["odd", "odd"]
    assert await run(4) == 4


async def test_a_cancelled_call_does_not_affect_its_batch() -> None:
    async def same(items: Sequence[int]) -> Sequence[int]:
        return items

    run = Batches(same)
    cancelled, other = asyncio.create_task(run(1)), asyncio.create_task(run(2))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert await other == 2
    with pytest.raises(asyncio.CancelledError):
        await cancelled
