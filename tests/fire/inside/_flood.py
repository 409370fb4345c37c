"""The job of which a test enqueues very many."""

from app.platform.jobs import JobContext, job


@job(retries=0)
async def drop(context: JobContext, number: int) -> int:
    return number
