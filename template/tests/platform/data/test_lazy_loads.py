"""An attribute that was not loaded or has expired raises, and says how to load it."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from sqlalchemy import ForeignKey, Select, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    defer,
    load_only,
    mapped_column,
    relationship,
    selectinload,
    undefer,
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
    title: Mapped[str] = mapped_column(default="Title")
    text: Mapped[str] = mapped_column(default="Text", deferred=True)
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


@pytest.mark.parametrize(
    ("statement", "attribute"),
    [
        (select(Book), "text"),
        (select(Book).options(defer(Book.title)), "title"),
        (select(Book).options(load_only(Book.id)), "title"),
    ],
)
async def test_reading_a_deferred_column_raises_and_says_how_to_load_it(
    session: AsyncSession, statement: Select[tuple[Book]], attribute: str
) -> None:
    book = (await session.scalars(statement)).first()
    with pytest.raises(LazyLoad) as error:
        getattr(book, attribute)
    assert str(error.value) == (
        f"Book.{attribute} has not been loaded, and reading it does not query the database: add"
        f" `.options(undefer(Book.{attribute}))` to the statement that loads the Book, or call"
        f' `await session.refresh(instance, ["{attribute}"])` first.'
    )
    with pytest.raises(LazyLoad):
        await session.run_sync(lambda _: getattr(book, attribute))
    await session.refresh(book, [attribute])
    assert getattr(book, attribute) == attribute.title()


@pytest.mark.parametrize("statement", [select(Book), select(Book).options(load_only(Book.id))])
async def test_the_option_in_the_message_loads_a_deferred_column(
    session: AsyncSession, statement: Select[tuple[Book]]
) -> None:
    book = (await session.scalars(statement.options(undefer(Book.text)))).first()
    assert book
    assert book.text == "Text"


async def test_reading_an_expired_column_raises_and_says_how_to_load_it(
    session: AsyncSession,
) -> None:
    book = await session.get_one(Book, 1)
    session.expire(book, ["title"])
    with pytest.raises(LazyLoad) as error:
        assert book.title
    assert str(error.value) == (
        "Book.title has expired, and reading it does not query the database: call"
        ' `await session.refresh(instance, ["title"])` first.'
    )
    session.expire(book)
    with pytest.raises(LazyLoad, match=r"Book\.author_id, Book\.id, Book\.title have expired"):
        await session.run_sync(lambda _: book.title)
    await session.refresh(book)
    assert book.title == "Title"


async def test_what_is_written_to_an_expired_object_is_flushed(session: AsyncSession) -> None:
    author = await session.get_one(Author, 1)
    book = await session.get_one(Book, 1)
    session.expire_all()
    book.title = "Another"
    session.add(Book(id=3, author=author))  # the flush reads the author's key
    await session.flush()
    session.expire_all()
    await session.refresh(author, ["books"])
    assert len(author.books) == 3
    session.expire_all()
    await session.merge(Book(id=1, text="merged"))
    await session.delete(book)
    await session.flush()
    assert (await session.scalars(select(Book.id).order_by(Book.id))).all() == [2, 3]


def test_every_attribute_of_the_service_raises() -> None:
    Base.registry.configure()
    for mapper in Base.registry.mappers:
        for each in mapper.relationships:
            loader = getattr(mapper.class_, each.key).impl.callable_
            assert loader is None or type(loader).__module__ == LazyLoad.__module__
        loader = mapper.class_manager.expired_attribute_loader
        assert type(loader).__module__ == LazyLoad.__module__
