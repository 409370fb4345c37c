"""Jobs of the release that is being replaced."""

from app.platform.jobs import JobContext, job


@job(name="orders.bill", retries=0)
async def bill(context: JobContext, order: int) -> str:
    return f"old bill {order}"


@job(name="orders.label", retries=0)
async def label(context: JobContext, text: str) -> str:
    return f"old label {text}"
