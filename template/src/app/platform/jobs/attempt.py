"""One attempt at a job: called with the arguments that were stored, and ended in time."""

import asyncio
import random
from typing import Any

from app.platform.jobs.context import JobContext
from app.platform.jobs.registry import JobDefinition

ERROR_LENGTH = 2000  # characters of an error that are kept


async def attempt(kind: JobDefinition, context: JobContext, arguments: dict[str, Any]) -> Any:
    """Return the job's result as JSON; raise what it raised, or ``TimeoutError``."""
    valid = kind.from_json(arguments)
    try:
        async with asyncio.timeout(kind.timeout) as limit:
            result = await kind.function(context, **valid)
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(f"It took longer than {kind.timeout:g} s.") from None
        raise
    except (SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:
        if (task := asyncio.current_task()) and task.cancelling():
            raise
        # The job's own doing, which must not end the process that runs it.
        raise RuntimeError(f"The job raised {type(error).__name__}.") from error
    return kind.result.dump_python(result, mode="json")


def reason(error: Exception) -> str:
    """Say what went wrong, in one line for a log or a status."""
    # Postgres text holds no NUL and no half characters, and an error may hold anything.
    line = f"{type(error).__name__}: {error}".replace("\0", "")[:ERROR_LENGTH]
    return line.encode(errors="replace").decode()


def backoff(failed: int, first: float, most: float) -> float:
    """Seconds until the next attempt after ``failed`` ones: exponential, with full jitter.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return random.uniform(0, min(most, first * 2 ** (failed - 1)))  # noqa: S311 (no secret)
