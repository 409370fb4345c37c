"""Jobs that harm whoever runs them."""

import math
import os
import signal

from app.platform.jobs import Context, job


@job(retries=1)
async def kill(context: Context) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@job(retries=1)
async def return_nul(context: Context) -> str:
    return "no text of Postgres: \0"


@job(retries=1)
async def return_surrogate(context: Context) -> dict[str, str]:
    return {"no Unicode": "\ud800"}


@job(retries=1)
async def return_infinity(context: Context) -> list[float]:
    return [math.inf, math.nan]


@job(retries=1)
async def return_no_json(context: Context) -> object:
    return object()


@job(retries=1)
async def raise_surrogate(context: Context) -> None:
    raise OSError("caf\udce9\0")


@job(retries=1)
async def nest(context: Context) -> None:
    await nest(context)


@job(retries=0)
async def good(context: Context) -> str:
    return "good"
