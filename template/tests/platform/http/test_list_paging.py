"""The parameters of a list accept what their columns can compare, and nothing else."""

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import DateTime, Float, Interval, Numeric, Time, select
from sqlalchemy import Enum as EnumType
from sqlalchemy.dialects.postgresql import INET
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.platform.data.listing import Filter, Listing
from app.platform.http.list_paging import ListPaging, list_paging
from app.settings import Settings
from tests.conftest import client_for


class Base(DeclarativeBase):
    """Tables of this module only."""


class State(StrEnum):
    AFLOAT = "afloat"
    SOLD = "sold"


class Rig(Enum):
    SLOOP = "sloop"


class Boat(Base):
    __tablename__ = "boats"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[State]
    rig: Mapped[Rig]
    hull: Mapped[str] = mapped_column(EnumType("steel", "oak", name="hull"))
    price: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    weight: Mapped[Decimal]
    built_on: Mapped[date]
    seen_at: Mapped[datetime] = mapped_column(DateTime)
    opens_at: Mapped[time] = mapped_column(Time)
    closes_at: Mapped[time] = mapped_column(Time(timezone=True))
    watch: Mapped[timedelta] = mapped_column(Interval)
    draught: Mapped[float] = mapped_column(Float(24))
    address: Mapped[str] = mapped_column(INET)


FILTERS = (
    *("state", "rig", "hull", "price", "weight", "built_on"),
    *("seen_at", "opens_at", "closes_at", "watch", "draught"),
)


@pytest.fixture
def boats(settings: Settings) -> FastAPI:
    """An app with a route that returns the filters it was called with."""
    listing = Listing(
        select(Boat.id),
        key=Boat.id,
        sorts={"id": Boat.id},
        default="id",
        filters={name: Filter(getattr(Boat, name)) for name in FILTERS},
    )
    app = FastAPI()
    app.state.settings = settings

    @app.get("/boats")
    async def list_boats(
        paging: Annotated[ListPaging, Depends(list_paging("boats", listing))],
    ) -> dict[str, Any]:
        return dict(paging.query.filters)

    return app


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state", "sold"),
        ("rig", "sloop"),
        ("hull", "oak"),
        ("price", "9999999999.99"),
        ("weight", "0.125"),
        ("built_on", "2026-01-31"),
        ("seen_at", "2026-01-31T09:30:00"),
        ("opens_at", "09:30:00"),
        ("closes_at", "18:00:00+05:30"),
        ("watch", "PT4H"),
        ("draught", "1.5"),
    ],
)
async def test_a_value_of_the_column_is_accepted(boats: FastAPI, name: str, value: str) -> None:
    async with client_for(boats) as client:
        response = await client.get("/boats", params={name: value})
    assert {each: str(found) for each, found in response.json().items()} == {name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state", "lost"),
        ("state", "SOLD"),
        ("rig", "SLOOP"),
        ("hull", "tin"),
        ("price", "10000000000"),
        ("price", "0.001"),
        ("price", "1e400000"),
        ("price", "NaN"),
        ("weight", "-1e400000"),
        ("weight", "1e-400000"),
        ("built_on", "0"),
        ("built_on", "2026-01-31T00:00:00Z"),
        ("seen_at", "2026-01-31T09:30:00Z"),
        ("opens_at", "09:30:00Z"),
        ("opens_at", "24:00:00"),
        ("closes_at", "18:00:00"),
        ("closes_at", "18:00:00+16:00"),
        ("watch", "P1000000000D"),
        ("draught", "4e38"),
    ],
)
async def test_a_value_that_postgres_would_refuse_or_read_differently_is_refused(
    boats: FastAPI, name: str, value: str
) -> None:
    async with client_for(boats) as client:
        response = await client.get("/boats", params={name: value})
    assert response.status_code == 422, response.text


def test_a_text_that_is_more_than_a_text_needs_a_type() -> None:
    listing = Listing(
        select(Boat.id),
        key=Boat.id,
        sorts={"id": Boat.id},
        default="id",
        filters={"address": Filter(Boat.address)},
    )
    with pytest.raises(ValueError, match="INET"):
        list_paging("boats", listing)
