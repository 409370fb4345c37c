"""The status of a job as an event stream, for callers who follow its progress."""

from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from app.platform.base.components import Lifespan
from app.platform.base.errors import NotFound, TooManyRequests
from app.platform.data.redis import REDIS_ERRORS
from app.platform.http.caller import CallerDependency
from app.platform.http.event_streams import EventStream, EventStreams, EventStreamsDep
from app.platform.http.problems import responses
from app.platform.jobs.changes import observe
from app.platform.jobs.queue import find_status
from app.platform.jobs.router import NO_SUCH_JOB
from app.platform.jobs.status import JobState, Progress
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

logger = get_logger(__name__)


class JobChange(BaseModel):
    """A job's state and progress at one time."""

    status: JobState
    progress: Progress | None = None


def _topic(job_id: UUID) -> str:
    return f"jobs:{job_id}"


def create_router(current_user: CallerDependency) -> APIRouter:
    """A router for ``/jobs``. ``current_user``: the dependency that authenticates the caller."""
    router = APIRouter(prefix="/jobs", tags=["jobs"])

    async def open_stream(
        job_id: UUID,
        user: Annotated[Any, Depends(current_user)],
        streams: EventStreamsDep,
        request: Request,
    ) -> AsyncIterator[EventStream]:
        async with streams.open(request, _topic(job_id), caller=user.id) as stream:
            # Read once the stream is open: no change after it is missed.
            status = await find_status(request.app, job_id, owner=user.id)
            if status is None:
                raise NotFound(NO_SUCH_JOB)
            now = JobChange(status=status.status, progress=status.progress)
            yield _beginning_with(now, stream)

    @router.get(
        "/{job_id}/events",
        response_class=EventSourceResponse,
        responses=responses(NotFound, TooManyRequests),
    )
    async def watch_job(
        stream: Annotated[EventStream, Depends(open_stream)],
    ) -> AsyncIterator[ServerSentEvent]:
        """State and progress of a job of yours, now and after each change (`JobChange`).

        Close the stream once the status is `succeeded` or `dead`; `GET /jobs/{job_id}` has the
        result.
        """
        async for event in stream:
            yield event

    return router


async def _beginning_with(now: JobChange, stream: EventStream) -> EventStream:
    yield ServerSentEvent(raw_data=now.model_dump_json(), event=JobChange.__name__)
    async for event in stream:
        yield event


def setup(app: FastAPI, _: PlatformSettings) -> Lifespan | None:
    async def publish(job_id: UUID, state: JobState, progress: Progress | None) -> None:
        streams: EventStreams = app.state.event_streams
        topic = _topic(job_id)
        try:
            # Most jobs have no listeners, and then need no history in Redis either.
            if await streams.topics.has_listeners(topic):
                await streams.publish(topic, JobChange(status=state, progress=progress))
        except REDIS_ERRORS as error:
            logger.warning("job change not sent", job_id=str(job_id), error=type(error).__name__)

    observe(app, publish)
    return None
