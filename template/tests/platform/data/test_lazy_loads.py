"""A relationship that was not loaded raises, and says how to load it."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from sqlalchemy import ForeignKey, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    selectinload,
)

from app.platform.data.database import Base
from app.platform.data.lazy_loads import LazyLoad, refuse_lazy_loads


class Shelf(DeclarativeBase):
    """A base of its own: the service's migrations know nothing of these tables."""


refuse_lazy_loads(Shelf)


class Author(Shelf):
    __tablename__ = "authors_of_a_test"

    id: Mapped[int] = mapped_column(primary_key=True)
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all")


class Book(Shelf):
    __tablename__ = "books_of_a_test"

    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
    author: Mapped[Author] = relationship(back_populates="books")


@pytest.fixture
async def session(app: FastAPI) -> AsyncIterator[AsyncSession]:
    async with app.state.db.transaction() as session:
        connection = await session.connection()
        await connection.run_sync(Shelf.metadata.create_all)
        session.add(Author(id=1, books=[Book(id=1), Book(id=2)]))
        await session.flush()
        session.expunge_all()
        yield session


async def test_reading_it_raises_and_says_how_to_load_it(session: AsyncSession) -> None:
    author = await session.get_one(Author, 1)
    with pytest.raises(LazyLoad) as error:
        assert author.books
    assert str(error.value) == (
        "Author.books has not been loaded, and reading it does not query the database: add"
        " `.options(selectinload(Author.books))` to the statement that loads the Author, or call"
        ' `await session.refresh(instance, ["books"])` first.'
    )
    with pytest.raises(LazyLoad, match=r"Book\.author has not been loaded"):
        assert (await session.get_one(Book, 1)).author.id


async def test_reading_it_in_run_sync_raises_as_well(session: AsyncSession) -> None:
    def read(sync_session: Session) -> int:
        return len(sync_session.get_one(Author, 1).books)

    with pytest.raises(LazyLoad):
        await session.run_sync(read)


async def test_both_remedies_of_the_message_load_it(session: AsyncSession) -> None:
    loaded = await session.scalar(select(Author).options(selectinload(Author.books)))
    assert loaded
    assert [book.id for book in loaded.books] == [1, 2]
    session.expunge_all()
    author = await session.get_one(Author, 1)
    await session.refresh(author, ["books"])
    assert len(author.books) == 2


async def test_flushes_and_cascades_load_what_they_need(session: AsyncSession) -> None:
    await session.delete(await session.get_one(Author, 1))
    await session.flush()
    assert (await session.scalars(select(Book))).all() == []


async def test_a_new_object_has_its_relationships(session: AsyncSession) -> None:
    author = Author(id=2)
    author.books.append(Book(id=3))
    session.add(author)
    await session.flush()
    assert author.books[0].author is author


def test_every_relationship_of_the_service_raises() -> None:
    Base.registry.configure()
    for mapper in Base.registry.mappers:
        for each in mapper.relationships:
            loader = getattr(mapper.class_, each.key).impl.callable_
            assert loader is None or type(loader).__module__ == LazyLoad.__module__
