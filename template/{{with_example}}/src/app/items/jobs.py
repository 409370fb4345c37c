"""Background jobs for items."""

from app.items import service
from app.items.schemas import Export, ItemRead
from app.platform.data.listing import ListQuery
from app.platform.jobs import BACKGROUND_PROCESSES, JobContext, job

PAGE_SIZE = 1000
# The result is stored in the job's row; larger exports belong in object storage.
MAX_ITEMS = 10_000
# Schedules need a scheduler; a service whose jobs run in the API's process has none.
NIGHTLY = "0 3 * * *" if "worker" in BACKGROUND_PROCESSES else None


@job(retries=3, timeout=60)
async def export_items(context: JobContext, owner: str) -> Export:
    """The newest ``MAX_ITEMS`` items of ``owner``, as JSON Lines. Read-only: safe to run twice."""
    lines: list[str] = []
    query = ListQuery(PAGE_SIZE)
    complete = False
    while len(lines) < MAX_ITEMS:
        rows = await service.list_items(context.read_session, owner, query)
        page = rows[:PAGE_SIZE]
        lines += [ItemRead.model_validate(row).model_dump_json() for row in page]
        await context.report_progress(len(lines), message="Reading the items")
        if complete := len(rows) <= PAGE_SIZE:
            break
        query = ListQuery(PAGE_SIZE, after=service.LISTING.position(query, page[-1]))
    context.logger.info("items exported", items=len(lines))
    return Export(items=len(lines), complete=complete, lines="\n".join(lines))


@job(cron=NIGHTLY)
async def count_items(context: JobContext) -> int:
    """Number of all items, which goes to the log."""
    total = await service.count_items(context.read_session)
    context.logger.info("items counted", items=total)
    return total
