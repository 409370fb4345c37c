"""Background jobs, the same whichever queue runs them. Features import from here alone.

A job is a plain ``async def`` in its feature's ``jobs.py``; a route takes ``Jobs`` and enqueues it:

    @job(retries=3, timeout=120)
    async def export_items(context: Context, owner: str) -> Export: ...

    status = await jobs.enqueue(export_items, owner=user.id, unique=f"export:{user.id}")
"""

from app.jobs.commands import COMPANIONS, add_commands
from app.jobs.context import Context
from app.jobs.pools import connections
from app.jobs.queue import JobQueue, Jobs, install
from app.jobs.registry import job
from app.jobs.router import location, router
from app.jobs.status import JobStatus

__all__ = [
    "COMPANIONS",
    "Context",
    "JobQueue",
    "JobStatus",
    "Jobs",
    "add_commands",
    "connections",
    "install",
    "job",
    "location",
    "router",
]
