"""Background jobs for items."""

from app.items import service
from app.items.schemas import Export
from app.platform.jobs import BACKGROUND_PROCESSES, JobContext, job

PAGE_SIZE = 1000
# The result is stored in the job's row; larger exports belong in object storage.
MAX_ITEMS = 10_000
# Schedules need a scheduler; a service whose jobs run in the API's process has none.
NIGHTLY = "0 3 * * *" if "worker" in BACKGROUND_PROCESSES else None


@job(retries=3, timeout=60)
async def export_items(context: JobContext, owner: str) -> Export:
    """All items of ``owner`` as JSON Lines. Read-only, and so safe to run twice."""
    lines: list[str] = []
    after: service.Position | None = None
    while len(lines) < MAX_ITEMS:
        page = await service.list_items(context.read_session, owner, PAGE_SIZE, after)
        lines += [item.model_dump_json() for item in page]
        await context.report_progress(len(lines), message="Reading the items")
        if len(page) < PAGE_SIZE:
            break
        after = (page[-1].created_at, page[-1].id)
    context.logger.info("items exported", items=len(lines))
    return Export(items=len(lines), lines="\n".join(lines))


@job(cron=NIGHTLY)
async def count_items(context: JobContext) -> int:
    """Number of all items, which goes to the log."""
    total = await service.count_items(context.read_session)
    context.logger.info("items counted", items=total)
    return total
