"""Jobs that harm their worker or the job store."""

import math
import os
import signal

from app.platform.jobs import JobContext, job


@job(retries=1)
async def kill(context: JobContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@job(retries=1)
async def return_nul(context: JobContext) -> str:
    return "invalid text in Postgres: \0"


@job(retries=1)
async def return_surrogate(context: JobContext) -> dict[str, str]:
    return {"no Unicode": "\ud800"}


@job(retries=1)
async def return_infinity(context: JobContext) -> list[float]:
    return [math.inf, math.nan]


@job(retries=1)
async def return_no_json(context: JobContext) -> object:
    return object()


@job(retries=1)
async def raise_surrogate(context: JobContext) -> None:
    raise OSError("caf\udce9\0")


@job(retries=1)
async def nest(context: JobContext) -> None:
    await nest(context)


@job(retries=0)
async def good(context: JobContext) -> str:
    return "good"
