"""The settings of the pool have an effect, and sessions and constraint names are as promised."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PoolProxiedConnection,
    Table,
    UniqueConstraint,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateIndex, CreateTable

from app.platform.base.errors import DatabaseUnavailable, Unavailable
from app.platform.data.database import Base, ReadSession
from app.platform.data.engine import create_engine
from app.settings import Settings
from tests.conftest import running_platform

ONE = select(literal_column("1"))


@asynccontextmanager
async def open_engine(settings: Settings, **changes: Any) -> AsyncIterator[AsyncEngine]:
    """An engine with changed settings; one that is not disposed of hangs the run."""
    engine = create_engine(settings.model_copy(update=changes))
    try:
        yield engine
    finally:
        await engine.dispose()


async def pid(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(text("SELECT pg_backend_pid()")) or 0)


async def test_a_connection_is_replaced_at_its_maximum_age(
    module_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_engine(module_settings, db_pool_size=1, db_pool_recycle=60) as engine:
        first, now = await pid(engine), time.time()
        monkeypatch.setattr(time, "time", lambda: now + 50)
        assert await pid(engine) == first
        monkeypatch.setattr(time, "time", lambda: now + 61)
        assert await pid(engine) != first


async def test_a_request_waits_for_a_connection_as_long_as_configured(
    module_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"db_pool_size": 1, "db_max_overflow": 0, "db_pool_timeout": 7.0}
    timeout, limits = asyncio.timeout, list[float | None]()

    def over_at_once(seconds: float | None) -> asyncio.Timeout:
        limits.append(seconds)
        return timeout(0)

    taken, release = asyncio.Event(), asyncio.Event()
    async with running_platform(module_settings.model_copy(update=changes)) as app:

        async def hold() -> None:
            async with app.state.db.transaction() as session:
                await session.execute(ONE)
                taken.set()
                await release.wait()

        holder = asyncio.create_task(hold())
        await taken.wait()
        with monkeypatch.context() as hurried:
            hurried.setattr(asyncio, "timeout", over_at_once)
            with pytest.raises(Unavailable):
                await ReadSession(app.state.db).first(ONE)
        release.set()
        await holder
    assert limits == [7.0]


async def test_a_prepared_read_closes_the_connection_that_the_pool_has_no_room_for(
    module_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"db_pool_size": 1, "db_max_overflow": 1}
    taken, release = asyncio.Event(), asyncio.Event()
    async with running_platform(module_settings.model_copy(update=changes)) as app:

        async def hold() -> None:
            async with app.state.db.transaction() as session:
                await session.execute(ONE)
                taken.set()
                await release.wait()

        async def by_driver(connection: PoolProxiedConnection) -> Any:
            release.set()
            await holder  # whose connection takes the place in the pool
            return connection.driver_connection

        holder = asyncio.create_task(hold())
        await taken.wait()
        driver = await app.state.db.read(lambda _: None, by_driver)
        assert driver.is_closed()
    assert not caplog.records


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    """The port of a server that accepts connections and says nothing."""
    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1")
    yield server.sockets[0].getsockname()[1]
    for writer in connections:
        writer.close()
    server.close()


async def test_connecting_takes_as_long_as_configured(
    module_settings: Settings, silent_port: int
) -> None:
    url = SecretStr(f"postgresql+asyncpg://nobody@127.0.0.1:{silent_port}/nothing")
    async with open_engine(module_settings, database_url=url, db_pool_timeout=0.1) as engine:
        start = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            await pid(engine)
        assert 0.09 <= time.monotonic() - start < 3


class Shelf(DeclarativeBase):
    """A base of its own: the service's migrations know nothing of its table."""


class Note(Shelf):
    __tablename__ = "notes_of_a_pool"

    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str] = mapped_column()


async def test_objects_can_be_read_after_the_commit(module_settings: Settings) -> None:
    async with running_platform(module_settings) as app:
        async with app.state.db.transaction() as session:
            connection = await session.connection()
            await connection.run_sync(Shelf.metadata.create_all)
            note = Note(id=1, body="kept")
            session.add(note)
        assert note.body == "kept"
        async with app.state.db.transaction() as session:
            connection = await session.connection()
            await connection.run_sync(Shelf.metadata.drop_all)


def test_every_kind_of_constraint_has_a_predictable_name() -> None:
    metadata = MetaData(naming_convention=Base.metadata.naming_convention)
    Table("makers", metadata, Column("id", Integer, primary_key=True))
    parcels = Table(
        "parcels",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("maker_id", ForeignKey("makers.id")),
        Column("weight", Integer),
        CheckConstraint("weight > 0", name="weight"),
        UniqueConstraint("maker_id", "weight"),
    )
    index = Index(None, parcels.c.weight)
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    ddl = str(CreateTable(parcels).compile(dialect=dialect))
    for name in (
        "pk_parcels",
        "fk_parcels_maker_id_makers",
        "ck_parcels_weight",
        "uq_parcels_maker_id_weight",
    ):
        assert f"CONSTRAINT {name} " in ddl
    assert "INDEX ix_parcels_weight ON" in str(CreateIndex(index).compile(dialect=dialect))
