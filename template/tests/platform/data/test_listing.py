"""Lists that would lose rows, or have statements without a bound, are refused."""

import pytest
from sqlalchemy import String, Text, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.platform.data.listing import STATEMENTS, Filter, Listing, ListQuery


class Base(DeclarativeBase):
    """Tables of this module only."""


class Boat(Base):
    __tablename__ = "boats"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    berth: Mapped[int | None] = mapped_column()
    notes: Mapped[str] = mapped_column(Text)


BOATS = select(Boat.id, Boat.name, Boat.berth, Boat.notes)


def test_the_same_choice_is_the_same_statement() -> None:
    listing = Listing(
        BOATS,
        key=Boat.id,
        sorts={"name": Boat.name},
        default="name",
        filters={"name": Filter(Boat.name)},
    )
    first = listing.select(ListQuery(10))
    assert listing.select(ListQuery(20, sort="name")) is first
    assert listing.select(ListQuery(10, filters={"name": "x"})) is not first
    assert listing.select(ListQuery(10, after=("x", 1))) is not first


def test_callers_cannot_make_more_statements_than_are_kept() -> None:
    listing = Listing(BOATS, key=Boat.id, sorts={"name": Boat.name}, default="name")
    for number in range(STATEMENTS + 10):
        listing.select(ListQuery(1, fields=frozenset({f"unknown{number}"})))
    assert listing._statement.cache_info().currsize == STATEMENTS


@pytest.mark.parametrize(
    ("sorts", "default", "message"),
    [
        ({"berth": Boat.berth}, "berth", "rows with NULL in 'berth' have no position"),
        ({"notes": Boat.notes}, "notes", "'notes' has no length"),
        ({"name": Boat.name}, "nam", "'nam' is not among the sorts"),
    ],
)
def test_a_sort_that_would_lose_rows_is_refused(
    sorts: dict[str, object], default: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Listing(BOATS, key=Boat.id, sorts=sorts, default=default)  # type: ignore[arg-type]


def test_a_sort_that_the_statement_does_not_select_is_refused() -> None:
    with pytest.raises(ValueError, match="does not select 'name'"):
        Listing(select(Boat.id), key=Boat.id, sorts={"name": Boat.name}, default="name")
