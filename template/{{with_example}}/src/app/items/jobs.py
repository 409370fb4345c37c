"""Background jobs for items."""

from app.items import service
from app.items.schemas import Export
from app.platform.jobs import JobContext, job

PAGE_SIZE = 1000
# The result is stored in the job's row; larger exports belong in object storage.
MAX_ITEMS = 10_000


@job(retries=3, timeout=60)
async def export_items(context: JobContext, owner: str) -> Export:
    """All items of ``owner`` as JSON Lines. Read-only, and so safe to run twice."""
    lines: list[str] = []
    after: service.Position | None = None
    while len(lines) < MAX_ITEMS:
        page = await service.list_items(context.read_session, owner, PAGE_SIZE, after)
        lines += [item.model_dump_json() for item in page]
        if len(page) < PAGE_SIZE:
            break
        after = (page[-1].created_at, page[-1].id)
    context.logger.info("items exported", items=len(lines))
    return Export(items=len(lines), lines="\n".join(lines))
