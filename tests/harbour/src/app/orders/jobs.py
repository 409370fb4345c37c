"""Work on orders that nobody waits for."""

from app.platform.jobs import Context, job


@job(retries=2, timeout=30)
async def weigh(context: Context, owner: str) -> str:
    """Weigh what somebody ordered."""
    context.logger.info("weighed", owner=owner)
    return f"all of {owner}"
