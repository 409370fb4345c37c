"""The route."""

from fastapi import APIRouter, Request
from sqlalchemy import func, select

from app.platform.data.database import ReadSessionDep
from app.tides.models import Tide

router = APIRouter(prefix="/tides", tags=["tides"])


@router.get("")
async def count(request: Request, reads: ReadSessionDep) -> dict[str, int]:
    """Count them, by their kind."""
    row = await reads.first(select(func.count(Tide.id)))
    return {request.app.state.tides: row[0] if row else 0}
