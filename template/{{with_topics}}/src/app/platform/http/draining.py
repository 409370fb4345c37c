"""Long-lived responses end as soon as the process drains: their clients find another process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.platform.base.tasks import cancel

CHECK_INTERVAL = 0.2  # seconds


def is_draining(app: FastAPI) -> bool:
    """Whether the process is shutting down."""
    return getattr(app.state, "draining", False)


@asynccontextmanager
async def when_draining(app: FastAPI, callback: Callable[[], None]) -> AsyncIterator[None]:
    """Within the block, call ``callback`` once the process begins to drain."""

    async def watch() -> None:
        while not is_draining(app):  # noqa: ASYNC110 (the server sets a flag)
            await asyncio.sleep(CHECK_INTERVAL)
        callback()

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        await cancel(task)
