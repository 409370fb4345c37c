"""Jobs of the new release: a new job, a new argument, and a changed argument."""

from app.platform.jobs import JobContext, job


@job(name="orders.bill", retries=0)
async def bill(context: JobContext, order: int, currency: str = "EUR") -> str:
    return f"new bill {order} {currency}"


@job(name="orders.label", retries=0)
async def label(context: JobContext, lines: list[str]) -> str:
    return f"new label {' '.join(lines)}"


@job(name="orders.ship", retries=0)
async def ship(context: JobContext, order: int) -> str:
    return f"new ship {order}"


@job(name="orders.sweep", retries=0, cron="* * * * * *")
async def sweep(context: JobContext) -> str:
    return "new sweep"
