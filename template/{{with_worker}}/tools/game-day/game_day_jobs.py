"""The jobs of a game day."""

import asyncio

from fastapi import APIRouter

from app.platform.jobs import JobContext, Jobs, job

router = APIRouter(prefix="/game-day", include_in_schema=False)


@job(name="game_day.poison", retries=0)
async def poison(_: JobContext) -> None:
    """A job that fails at each attempt."""
    raise ValueError("a poison job")


@job(name="game_day.slow")
async def slow(_: JobContext) -> None:
    """A job of two seconds."""
    await asyncio.sleep(2)


@job(name="game_day.tick", cron="* * * * *")
async def tick(_: JobContext) -> None:
    """A job of each minute."""


@router.post("/poison", status_code=202)
async def enqueue_poison(jobs: Jobs) -> None:
    await jobs.enqueue(poison)


@router.post("/slow-job", status_code=202)
async def enqueue_slow(jobs: Jobs) -> None:
    await jobs.enqueue(slow)
