"""Background jobs, with one API for every queue. Features import from here only.

A job is an ``async def`` in its feature's ``jobs.py``; a route takes ``Jobs`` to enqueue it:

    @job(retries=3, timeout=120)
    async def export_items(context: JobContext, owner: str) -> Export: ...

    status = await jobs.enqueue(export_items, owner=user.id, unique=f"export:{user.id}")
"""

from app.platform.jobs.commands import BACKGROUND_PROCESSES, add_commands
from app.platform.jobs.context import JobContext, JobQueue
from app.platform.jobs.pools import background_connections
from app.platform.jobs.queue import Jobs, setup
from app.platform.jobs.registry import job
from app.platform.jobs.router import create_router, status_headers
from app.platform.jobs.status import JobStatus

__all__ = [
    "BACKGROUND_PROCESSES",
    "JobContext",
    "JobQueue",
    "JobStatus",
    "Jobs",
    "add_commands",
    "background_connections",
    "create_router",
    "job",
    "setup",
    "status_headers",
]
