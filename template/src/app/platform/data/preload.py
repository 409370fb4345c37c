"""Imports before the fork, for memory that the workers share.

Libraries import some of their modules at their first use. After the fork, that would be once in
each worker, in memory of its own. The same goes for the migrations, with which the readiness probe
compares the database.
"""

import gc
import importlib

from app.platform.data.http_client import create_client
from app.platform.settings import PlatformSettings

AT_FIRST_USE = (
    "anyio._backends._asyncio",
    "fastapi.telemetry._runtime",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.loops.uvloop",
)


def import_before_fork(settings: PlatformSettings) -> None:
    """Import what the lifespan, probes and requests of a worker would import."""
    for name in AT_FIRST_USE:
        importlib.import_module(name)
    from app.platform.data import revisions  # noqa: PLC0415 (0.3 s at every start)

    revisions.release_scripts()
    create_client(settings)  # the first client imports its transport; it connects at first use
    # A collection in one process would otherwise copy what all of them share.
    gc.freeze()
