"""Work on orders that nobody waits for."""

from app.platform.jobs import JobContext, job


@job(retries=2, timeout=30)
async def weigh(context: JobContext, owner: str) -> str:
    """Weigh what somebody ordered."""
    context.logger.info("weighed", owner=owner)
    return f"all of {owner}"
