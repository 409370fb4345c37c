"""How the caller who enqueued a job learns what became of it."""

from uuid import UUID

from fastapi import APIRouter, Request, Response

from app.auth import CurrentUser
from app.platform.base.errors import NotFound, responses
from app.platform.jobs.queue import find
from app.platform.jobs.status import JobStatus

POLL_AFTER = "1"  # seconds

router = APIRouter(prefix="/jobs", tags=["jobs"])


def location(request: Request, status: JobStatus) -> dict[str, str]:
    """Return the headers of a 202 answer: where the job's status is, and when to look."""
    path = request.url_for("read_job", job_id=str(status.id)).path
    return {"Location": path, "Retry-After": POLL_AFTER}


@router.get("/{job_id}", responses=responses(NotFound))
async def read_job(
    job_id: UUID, user: CurrentUser, request: Request, response: Response
) -> JobStatus:
    """Say how a job is doing that you, or nobody, started. `Retry-After` says when to ask again."""
    status = await find(request.app, job_id, owner=user.id)
    if status is None:
        raise NotFound("You have no such job; finished ones are forgotten after a while.")
    response.headers["Cache-Control"] = "no-store"
    if not status.finished:
        response.headers["Retry-After"] = POLL_AFTER
    return _public(status)


def _public(status: JobStatus) -> JobStatus:
    """Leave out what was raised: it may say more than a caller should know."""
    error = f"It failed {status.attempts} times and was given up."
    return status.model_copy(update={"error": error if status.status == "dead" else None})
