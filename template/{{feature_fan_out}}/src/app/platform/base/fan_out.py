"""Fan-out: one call per item, concurrently, with limits and partial results."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.platform.base import context

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass
class Outcome(Generic[Item, Value]):
    """The outcome for one item: a value or an error."""

    item: Item
    value: Value | None = None
    error: Exception | None = None

    def result(self) -> Value:
        """The value; raises the error if there is one."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # without an error, it is set


async def fan_out(
    function: Callable[[Item], Awaitable[Value]],
    items: Iterable[Item],
    *,
    timeout: float,  # noqa: ASYNC109 (a total for all calls, with partial results)
    limit: int = 10,
) -> list[Outcome[Item, Value]]:
    """The outcomes of ``function`` for all items, in their order.

    At most ``limit`` calls run at once. After ``timeout`` seconds, or at the deadline of the
    request or job, those that have not finished are cancelled, and their error is a
    ``TimeoutError``. When the caller is cancelled, so are all calls.
    """
    if limit < 1:
        raise ValueError("limit must be at least 1.")
    remaining = context.current().remaining()
    seconds = timeout if remaining is None else min(timeout, remaining)
    late = TimeoutError(f"not finished within {seconds:.3g} s")
    outcomes: list[Outcome[Item, Value]] = [Outcome(item, error=late) for item in items]
    waiting = iter(outcomes)

    async def run_calls() -> None:
        for outcome in waiting:
            try:
                outcome.value = await function(outcome.item)
                outcome.error = None
            except Exception as error:  # noqa: BLE001 (part of the result)
                outcome.error = error

    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for _ in range(min(limit, len(outcomes))):
                group.create_task(run_calls())
    except TimeoutError:
        pass
    return outcomes
