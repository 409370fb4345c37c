"""The job of which very many wait."""

from app.platform.jobs import Context, job


@job(retries=0)
async def drop(context: Context, number: int) -> int:
    return number
