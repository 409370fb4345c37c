"""Statistics of all items: counted once for all processes, and cached."""

from functools import partial

from fastapi import APIRouter
from sqlalchemy import func, select

from app.auth import CurrentUser
from app.items.models import Item
from app.platform.base.errors import Unauthorized
from app.platform.data.cache import Cached, CacheDep
from app.platform.data.database import ReadSession, ReadSessionDep
from app.platform.http.problems import responses
from app.platform.http.schemas import ResponseModel

router = APIRouter(prefix="/items", tags=["items"], responses=responses(Unauthorized))


class Statistics(ResponseModel):
    items: int
    owners: int


# Nothing invalidates it: a count of everything may be 10 seconds old, 40 while it is loaded again.
STATISTICS = Cached("items.statistics", Statistics, ttl=10, stale=30)
COUNTS = select(func.count(), func.count(Item.owner.distinct())).select_from(Item)


async def count(session: ReadSession) -> Statistics | None:
    row = await session.first(COUNTS)
    return Statistics(items=row[0], owners=row[1]) if row else None


@router.get("/statistics")
async def read_statistics(
    _: CurrentUser, session: ReadSessionDep, cache: CacheDep
) -> Statistics | None:
    """Number of all items and of their owners, up to 40 seconds old."""
    return await cache.get(STATISTICS, "all", partial(count, session))
