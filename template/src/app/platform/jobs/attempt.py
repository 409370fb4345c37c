"""One attempt at a job, within its time limit."""

import asyncio
import random
from typing import Any

from app.platform.jobs.context import JobContext
from app.platform.jobs.registry import JobDefinition

MAX_ERROR_LENGTH = 2000  # characters


async def attempt(definition: JobDefinition, context: JobContext, arguments: dict[str, Any]) -> Any:
    """Result of the job as JSON.

    ``arguments`` are those stored when the job was enqueued. Raises what the job raises, or
    ``TimeoutError``.
    """
    valid = definition.load_arguments(arguments)
    try:
        async with asyncio.timeout(definition.timeout) as limit:
            result = await definition.function(context, **valid)
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(
                f"The job exceeded its timeout of {definition.timeout:g} s."
            ) from None
        raise
    except (SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:
        if (task := asyncio.current_task()) and task.cancelling():
            raise
        # Raised by the job itself, so it must not stop the worker.
        raise RuntimeError(f"The job raised {type(error).__name__}.") from error
    return definition.result.dump_python(result, mode="json")


def error_summary(error: Exception) -> str:
    """Type and message of an error in one line, storable in a ``text`` column."""
    # Postgres rejects NUL characters and lone surrogates.
    text = f"{type(error).__name__}: {error}".replace("\0", "")
    line = " ".join(text.split())[:MAX_ERROR_LENGTH]
    return line.encode(errors="replace").decode()


def backoff(failures: int, base: float, maximum: float) -> float:
    """Seconds until the next attempt: exponential backoff with full jitter.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return random.uniform(0, min(maximum, base * 2 ** min(failures - 1, 64)))  # noqa: S311 (not a secret)
