"""Imports before the fork, for memory that the workers share.

Libraries import some of their modules at their first use. After the fork, that would be once in
each worker, in memory of its own.
"""

import importlib

from app.platform.data.http_client import create_client
from app.platform.settings import PlatformSettings

# The event loop's part of AnyIO; what the readiness probe compares migrations with.
AT_FIRST_USE = ("anyio._backends._asyncio", "alembic.command", "app.platform.data.revisions")


def import_before_fork(settings: PlatformSettings) -> None:
    """Import what the lifespan, probes and requests of a worker would import."""
    for name in AT_FIRST_USE:
        importlib.import_module(name)
    create_client(settings)  # the first client imports its transport; it connects at first use
