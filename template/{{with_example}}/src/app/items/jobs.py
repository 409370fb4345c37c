"""Work on items that nobody waits for."""

from app.items import service
from app.items.schemas import Export
from app.platform.jobs import JobContext, job

PAGE = 1000
# The result is kept in the job's row: what is larger belongs into a file store.
MOST = 10_000


@job(retries=3, timeout=60)
async def export_items(context: JobContext, owner: str) -> Export:
    """Write the items of ``owner`` as JSON lines. It only reads, so it may run twice."""
    lines: list[str] = []
    after: service.Position | None = None
    while len(lines) < MOST:
        page = await service.newest(context.read_session, owner, PAGE, after)
        lines += [item.model_dump_json() for item in page]
        if len(page) < PAGE:
            break
        after = (page[-1].created_at, page[-1].id)
    context.logger.info("items exported", items=len(lines))
    return Export(items=len(lines), lines="\n".join(lines))
