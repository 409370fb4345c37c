"""Fan-out: limits, partial results, and no call that outlives it."""

import asyncio

import pytest

from app.platform.base import context
from app.platform.base.fan_out import fan_out


class Calls:
    """Calls that block until they are released, and how many of them run."""

    def __init__(self) -> None:
        self.running = self.most = self.cancelled = 0
        self.started = asyncio.Semaphore(0)
        self.release = asyncio.Event()

    async def __call__(self, item: int) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        self.started.release()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return item * 10


async def call(item: int) -> int:
    await asyncio.sleep(0)
    if item == 2:
        raise ValueError("two")
    if item == 3:
        await asyncio.sleep(60)
    return item * 10


async def test_outcomes_are_in_order_with_values_and_errors() -> None:
    outcomes = await fan_out(call, [1, 2, 3, 4], timeout=0.05)
    assert [outcome.item for outcome in outcomes] == [1, 2, 3, 4]
    assert [outcome.value for outcome in outcomes] == [10, None, None, 40]
    assert [type(outcome.error) for outcome in outcomes] == [
        type(None),
        ValueError,
        TimeoutError,
        type(None),
    ]
    assert outcomes[0].result() == 10
    with pytest.raises(ValueError, match="two"):
        outcomes[1].result()


async def test_a_time_out_of_a_call_is_its_own_error() -> None:
    async def fail(_: int) -> None:
        raise TimeoutError("its own")

    [outcome] = await fan_out(fail, [1], timeout=5)
    assert str(outcome.error) == "its own"


async def test_at_most_limit_calls_run_at_once() -> None:
    calls = Calls()
    task = asyncio.create_task(fan_out(calls, range(9), timeout=5, limit=3))
    for _ in range(3):
        await calls.started.acquire()
    calls.release.set()
    assert [outcome.value for outcome in await task] == [item * 10 for item in range(9)]
    assert calls.most == 3


async def test_the_time_out_is_a_total_and_cancels_every_call() -> None:
    calls = Calls()
    outcomes = await fan_out(calls, range(5), timeout=0.05, limit=2)
    assert {type(outcome.error) for outcome in outcomes} == {TimeoutError}
    assert (calls.cancelled, calls.running) == (2, 0)


async def test_it_ends_at_the_deadline_of_the_request() -> None:
    deadline = asyncio.get_running_loop().time() + 0.05  # the clock of time.monotonic
    calls = Calls()
    with context.bind_request_context(deadline=deadline):
        outcomes = await fan_out(calls, [1], timeout=60)
    assert isinstance(outcomes[0].error, TimeoutError)


async def test_cancelling_the_caller_cancels_the_calls() -> None:
    calls = Calls()
    task = asyncio.create_task(fan_out(calls, range(5), timeout=60, limit=2))
    for _ in range(2):
        await calls.started.acquire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (calls.cancelled, calls.running) == (2, 0)


async def test_no_items_have_no_outcomes_and_a_limit_of_none_is_a_mistake() -> None:
    assert await fan_out(call, [], timeout=1) == []
    [outcome] = await fan_out(call, [1], timeout=5, limit=1)
    assert outcome.value == 10
    with pytest.raises(ValueError, match="limit"):
        await fan_out(call, [1], timeout=1, limit=0)
