"""The API's route for the status of a job."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Protocol
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from app.platform.base.errors import NotFound
from app.platform.http.problems import responses
from app.platform.jobs.queue import find
from app.platform.jobs.status import JobStatus

POLL_INTERVAL = "1"  # seconds, in Retry-After


class Caller(Protocol):
    """What the route needs to know of a caller."""

    @property
    def id(self) -> str: ...


def status_headers(request: Request, status: JobStatus) -> dict[str, str]:
    """The headers of a 202 response: ``Location`` of the job's status, and ``Retry-After``."""
    path = request.url_for("read_job", job_id=str(status.id)).path
    return {"Location": path, "Retry-After": POLL_INTERVAL}


def create_router(current_user: Callable[..., Awaitable[Caller]]) -> APIRouter:
    """The routes below ``/jobs``; ``current_user`` is the dependency that finds the caller."""
    router = APIRouter(prefix="/jobs", tags=["jobs"])

    @router.get("/{job_id}", responses=responses(NotFound))
    async def read_job(
        job_id: UUID,
        user: Annotated[Any, Depends(current_user)],
        request: Request,
        response: Response,
    ) -> JobStatus:
        """Status of a job that you, or nobody, enqueued. `Retry-After` says when to poll again."""
        status = await find(request.app, job_id, owner=user.id)
        if status is None:
            raise NotFound("You have no such job; finished jobs are deleted after a while.")
        response.headers["Cache-Control"] = "no-store"
        if not status.finished:
            response.headers["Retry-After"] = POLL_INTERVAL
        return _public(status)

    return router


def _public(status: JobStatus) -> JobStatus:
    """Hide the exception's text: it may hold more than a caller should know."""
    error = f"It failed {status.attempts} times and was given up."
    return status.model_copy(update={"error": error if status.status == "dead" else None})
