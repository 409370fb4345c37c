"""Jobs of features, run by a test."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import uuid4

from fastapi import BackgroundTasks, FastAPI

from app.platform.jobs import BACKGROUND_PROCESSES, JobContext, registry
from app.platform.jobs.attempt import attempt
from app.platform.jobs.status import Progress


async def run_job(app: FastAPI, function: Callable[..., Awaitable[Any]], **arguments: Any) -> Any:
    """The result of one attempt at a job, as JSON; raises what the job raises.

    Jobs that it enqueues are not run.
    """

    async def discard(_: Progress) -> None:
        """Nobody reads the status of this job."""

    queue_for = app.state.jobs.queue_for
    if not BACKGROUND_PROCESSES:  # jobs are tasks after a response
        queue_for = partial(queue_for, tasks=BackgroundTasks())
    definition = registry.definition_of(function)
    context = JobContext(app, uuid4(), definition.name, 1, queue_for, discard)
    return await attempt(definition, context, definition.dump_arguments(arguments))
