"""The route for a job's status."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from app.platform.base.errors import NotFound
from app.platform.http.caller import CallerDependency
from app.platform.http.openapi import Tag
from app.platform.http.problems import responses
from app.platform.http.versioning import location
from app.platform.jobs.queue import find_status
from app.platform.jobs.status import JobStatus

POLL_INTERVAL = "1"  # seconds, for Retry-After
NO_SUCH_JOB = "There is no such job. Finished jobs are deleted after some days."


def status_headers(request: Request, status: JobStatus) -> dict[str, str]:
    """Headers of a 202 response: ``Location`` of the job's status and ``Retry-After``."""
    return {"Location": location(request, f"/jobs/{status.id}"), "Retry-After": POLL_INTERVAL}


def create_router(current_user: CallerDependency) -> APIRouter:
    """A router for ``/jobs``. ``current_user``: the dependency that authenticates the caller."""
    router = APIRouter(prefix="/jobs", tags=[Tag("jobs", "The status of background jobs.")])

    @router.get("/{job_id}", responses=responses(NotFound))
    async def read_job(
        job_id: UUID,
        user: Annotated[Any, Depends(current_user)],
        request: Request,
        response: Response,
    ) -> JobStatus:
        """Status of a job of yours. Until it has finished, `Retry-After` says when to poll."""
        status = await find_status(request.app, job_id, owner=user.id)
        if status is None:
            raise NotFound(NO_SUCH_JOB)
        response.headers["Cache-Control"] = "no-store"
        if not status.finished:
            response.headers["Retry-After"] = POLL_INTERVAL
        return status

    return router
