"""The audit log, for administrators: callers with the scope ``admin``."""

from datetime import datetime
from typing import Annotated

from fastapi import Depends
from pydantic import Field

from app.platform.auth import audit_log
from app.platform.auth.administration import administration_router
from app.platform.data.database import ReadSessionDep
from app.platform.http.list_paging import ListPaging, list_paging
from app.platform.http.pagination import Page
from app.platform.http.schemas import ResponseModel

router = administration_router("/audit-events")

EventPaging = Annotated[ListPaging, Depends(list_paging("audit-events", audit_log.LISTING))]


class AuditEventRead(ResponseModel):
    """A change. ``actor``: a caller's id, or `command:` and the name of who ran it."""

    id: int = Field(examples=[1042])
    at: datetime = Field(examples=["2026-01-31T09:30:00Z"])
    actor: str = Field(examples=["command:ada"])
    action: str = Field(examples=["role_grant"])
    subject: str = Field(examples=["0198c3a1-c2d4-7b0e-9c7f-1a2b3c4d5e6f"])
    details: dict[str, str] = Field(examples=[{"role": "admin"}])


@router.get("")
async def list_audit_events(session: ReadSessionDep, paging: EventPaging) -> Page[AuditEventRead]:
    """Audited changes and their actors, newest first."""
    query, listing = paging.query, audit_log.LISTING
    rows = await session.all(listing.select(query), **listing.values(query))
    return paging.page(rows, AuditEventRead)
