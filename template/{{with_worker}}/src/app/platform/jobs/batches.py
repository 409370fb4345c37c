"""Batches: calls that arrive while another one runs, and then run as one.

A statement for ten jobs costs Postgres and the worker little more than a statement for one job.
Nothing waits for a batch to fill up: a call that finds none running starts at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MAX_SIZE = 500  # items of one batch


class Batches(Generic[T, R]):
    """Runs ``function``, which returns one result for each item, once for many calls.

    If it raises, every call of its batch raises.
    """

    def __init__(self, function: Callable[[Sequence[T]], Awaitable[Sequence[R]]]) -> None:
        self._function = function
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> R:
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, result))
        if self._task is None or self._task.done():
            # In a context of its own: a batch belongs to no single job.
            self._task = asyncio.create_task(self._run(), context=Context())
        return await result

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_SIZE], self._waiting[MAX_SIZE:]
            try:
                results = await self._function([item for item, _ in batch])
            except Exception as error:  # noqa: BLE001 (the callers handle it)
                for _, waiting in batch:
                    if not waiting.done():
                        waiting.set_exception(error)
            else:
                for (_, waiting), result in zip(batch, results, strict=True):
                    if not waiting.done():
                        waiting.set_result(result)
