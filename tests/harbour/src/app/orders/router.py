"""The routes."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqids import Sqids
from sqlalchemy import bindparam, select

from app.auth import CurrentUser
from app.orders.jobs import weigh
from app.orders.models import Order
from app.platform.base.errors import Unauthorized
from app.platform.data.database import ReadSessionDep, SessionDep
from app.platform.http.problems import responses
from app.platform.http.schemas import NOT_BLANK
from app.platform.jobs import Jobs, JobStatus

router = APIRouter(prefix="/orders", tags=["orders"], responses=responses(Unauthorized))
OWN = select(Order.id, Order.what).where(Order.owner == bindparam("owner")).order_by(Order.id)


class OrderCreate(BaseModel):
    what: Annotated[str, NOT_BLANK, Field(max_length=200)]


class OrderRead(OrderCreate):
    code: str


def _read(number: int, what: str) -> OrderRead:
    return OrderRead(code=Sqids(min_length=6).encode([number]), what=what)


@router.post("", status_code=201)
async def place(data: OrderCreate, user: CurrentUser, session: SessionDep) -> OrderRead:
    order = Order(owner=user.id, what=data.what)
    session.add(order)
    await session.flush()
    return _read(order.id, order.what)


@router.get("")
async def browse(user: CurrentUser, reads: ReadSessionDep) -> list[OrderRead]:
    """List your orders, oldest first."""
    return [_read(*row) for row in await reads.all(OWN, owner=user.id)]


@router.post("/weigh", status_code=202)
async def start_weighing(user: CurrentUser, jobs: Jobs) -> JobStatus:
    """Have your orders weighed."""
    return await jobs.enqueue(weigh, owner=user.id)
