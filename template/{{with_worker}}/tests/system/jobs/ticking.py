"""A job that is scheduled every second, beside those that hang."""

from app.platform.jobs import JobContext, job
from tests.system.jobs import hanging as hanging


@job(cron="* * * * * *")
async def tick(context: JobContext) -> None:
    """Do nothing, every second."""
