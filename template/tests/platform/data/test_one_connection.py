"""A request, a job or a WebSocket holds at most one connection, and none after its end."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from sqlalchemy import Connection, func, literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.auth import CurrentUser
from app.platform.base import context
from app.platform.base.errors import Conflict
from app.platform.data.database import (
    Database,
    ReadSession,
    ReadSessionDep,
    SecondConnection,
    SessionDep,
    TransactionEnded,
    on_commit,
)
from app.platform.jobs import JobContext, Jobs
from app.platform.jobs.context import JobQueue
from app.platform.jobs.status import Progress
from app.settings import Settings
from tests.actors import sign_in
from tests.conftest import client_for, connect_websocket, running_app
from tests.platform.jobs import samples

ONE = select(literal_column("1"))
NOTES = select(literal_column("to_regclass('notes_of_a_test')::text"))  # NULL without such a table


@pytest.fixture
async def service(module_settings: Settings) -> AsyncIterator[FastAPI]:
    """An app with a single connection: a request that needs two at once can never succeed."""
    changes = {"db_pool_size": 1, "db_max_overflow": 0, "db_pool_timeout": 10.0}
    async with running_app(module_settings.model_copy(update=changes)) as app:
        yield app
        async with asyncio.timeout(20):  # a feature's own task may use it for a moment
            while app.state.db.used or app.state.db.waiting:  # noqa: ASYNC110 (no event to wait for)
                await asyncio.sleep(0.01)


async def use_user(user: CurrentUser) -> None:
    assert user.id


async def use_session(session: SessionDep) -> None:
    await session.execute(ONE)


async def use_reads(reads: ReadSessionDep) -> None:
    await asyncio.gather(reads.first(ONE), reads.all(ONE))


async def use_jobs(jobs: Jobs) -> None:
    await jobs.enqueue(samples.note, text="x", unique=uuid4().hex)


USES = (use_user, use_session, use_reads, use_jobs)
# The orders of fewer dependencies are beginnings of these.
ORDERS = [
    *(order for n in range(1, len(USES)) for order in itertools.combinations(USES, n)),
    *itertools.permutations(USES),
]


async def answer() -> None: ...


async def answer_on_websocket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("done")
    await websocket.close()


async def test_a_request_needs_one_connection_whatever_the_order_of_its_dependencies(
    service: FastAPI,
) -> None:
    for number, order in enumerate(ORDERS):
        dependencies = [Depends(use) for use in order]
        service.router.add_api_route(f"/orders/{number}", answer, dependencies=dependencies)
    async with client_for(service) as client:
        client.headers.update(await sign_in(client, "alice@example.com"))
        requests = (client.get(f"/orders/{number}") for number in range(len(ORDERS)))
        responses = await asyncio.gather(*requests)
    failed = [
        [use.__name__ for use in order]
        for order, response in zip(ORDERS, responses, strict=True)
        if response.status_code != 200
    ]
    assert failed == []


async def test_a_websocket_needs_one_connection_whatever_the_order_of_its_dependencies(
    service: FastAPI,
) -> None:
    paths = []
    for order in itertools.permutations(USES):
        paths.append(f"/orders/{len(paths)}")
        service.router.add_api_websocket_route(
            paths[-1], answer_on_websocket, dependencies=[Depends(use) for use in order]
        )
    async with client_for(service) as client:
        headers = await sign_in(client, "alice@example.com")
    texts = await asyncio.gather(*(connect_websocket(service, path, headers) for path in paths))
    assert texts == [["done"]] * len(paths)


async def test_a_job_needs_one_connection(service: FastAPI) -> None:
    def no_queue(_: AsyncSession) -> JobQueue:
        raise NotImplementedError

    async def no_progress(_: Progress) -> None:
        raise NotImplementedError

    async def run() -> None:
        with context.bind_request_context():
            job = JobContext(service, uuid4(), "test", 1, no_queue, no_progress)
            await asyncio.gather(job.read_session.first(ONE), job.read_session.first(ONE))
            async with job.transaction() as session:
                await job.read_session.first(ONE)
                await session.execute(ONE)
                await asyncio.gather(job.read_session.first(ONE), session.execute(ONE))

    await asyncio.gather(*(run() for _ in range(4)))


async def test_concurrent_reads_of_a_request_share_one_connection(
    module_settings: Settings,
) -> None:
    async with running_app(module_settings) as app:
        database: Database = app.state.db
        used: list[int] = []

        def look(connection: Connection) -> None:
            connection.execute(ONE)
            used.append(database.used)

        with context.bind_request_context():
            await asyncio.gather(*(database.read(look) for _ in range(5)))
    assert used == [1] * 5


async def test_a_second_transaction_with_statements_is_refused(service: FastAPI) -> None:
    database = service.state.db
    async with database.transaction() as outer:
        async with database.transaction() as inner:  # the outer one has no connection yet
            await inner.execute(ONE)
            with pytest.raises(SecondConnection):
                await outer.execute(ONE)
        await outer.execute(ONE)
        async with database.transaction() as inner:
            with pytest.raises(SecondConnection):
                await inner.execute(ONE)
        await outer.execute(ONE)


async def test_an_open_transaction_does_not_concern_another_request(app: FastAPI) -> None:
    async with app.state.db.transaction() as session:
        await session.execute(ONE)
        with context.bind_request_context():
            async with app.state.db.transaction() as other:
                await other.execute(ONE)


async def look_before_and_after_writing(app: FastAPI) -> list[str | None]:
    """What the reads of a request see: before its writes, after them, after a rollback, again."""
    seen: list[str | None] = []

    async def look() -> None:
        row = await app.state.read_session.first(NOTES)
        seen.append(row[0])

    async with app.state.db.transaction() as session:
        await look()
        await session.execute(text("CREATE TABLE notes_of_a_test ()"))
        await look()
        await session.rollback()
        await look()
        await session.execute(text("CREATE TABLE notes_of_a_test ()"))
        await asyncio.create_task(look())
        await session.rollback()
    return seen


async def test_reads_see_what_the_open_transaction_of_their_request_has_written(
    service: FastAPI,
) -> None:
    assert await look_before_and_after_writing(service) == [
        None,
        "notes_of_a_test",
        None,
        "notes_of_a_test",
    ]


async def test_in_tests_reads_see_the_same_as_in_production(app: FastAPI) -> None:
    assert await look_before_and_after_writing(app) == [
        None,
        "notes_of_a_test",
        None,
        "notes_of_a_test",
    ]


@pytest.mark.parametrize("fails", [False, True], ids=["commit", "rollback"])
async def test_a_transaction_waits_for_its_reads_before_it_ends(
    service: FastAPI, fails: bool
) -> None:
    async def open_and_leave() -> asyncio.Task[Any]:
        reads: ReadSession = service.state.read_session
        async with service.state.db.transaction() as session:
            await session.execute(ONE)
            task = asyncio.create_task(reads.first(select(func.pg_sleep(0.05))))
            await asyncio.sleep(0.01)
            tasks.append(task)
            tasks.append(asyncio.create_task(reads.first(ONE)))
            if fails:
                raise Conflict("No.")
        return task

    tasks: list[asyncio.Task[Any]] = []
    if fails:
        with pytest.raises(Conflict):
            await open_and_leave()
    else:
        await open_and_leave()
    assert all(await asyncio.gather(*tasks))


class Model(DeclarativeBase):
    """Apart from the service's own tables."""


class Note(Model):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)


async def add(session: AsyncSession) -> None:
    session.add(Note(id=1))


async def callback() -> None: ...


async def register_callback(session: AsyncSession) -> None:
    on_commit(session, callback)


LATE: dict[str, Callable[[AsyncSession], Awaitable[object]]] = {
    "execute": lambda session: session.execute(ONE),
    "get": lambda session: session.get(Note, 1),
    "stream": lambda session: session.stream(ONE),
    "add": add,
    "commit": lambda session: session.commit(),
    "connection": lambda session: session.connection(),
    "begin_nested": lambda session: session.begin_nested().start(),
    "on_commit": register_callback,
}


@pytest.mark.parametrize("late", LATE)
async def test_a_session_that_is_used_after_the_response_raises(
    service: FastAPI, late: str
) -> None:
    raised: list[Exception] = []

    async def use(session: AsyncSession) -> None:
        try:
            await LATE[late](session)
        except Exception as error:
            raised.append(error)
            raise

    async def in_the_background(session: SessionDep, tasks: BackgroundTasks) -> None:
        await session.execute(ONE)
        tasks.add_task(use, session)

    async def in_a_stream(session: SessionDep) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            yield "one"
            await use(session)

        return StreamingResponse(body())

    service.add_api_route("/background", in_the_background)
    service.add_api_route("/stream", in_a_stream)
    async with client_for(service) as client:
        for path in ("/background", "/stream") * 2:
            await client.get(path)
    assert [type(each) for each in raised] == [TransactionEnded] * 4
    assert await service.state.read_session.first(ONE)


async def test_enqueueing_after_the_response_raises(service: FastAPI) -> None:
    raised: list[Exception] = []

    async def enqueue(jobs: JobQueue) -> None:
        try:
            await jobs.enqueue(samples.note, text="late")
        except Exception as error:
            raised.append(error)
            raise

    async def in_the_background(jobs: Jobs, tasks: BackgroundTasks) -> None:
        tasks.add_task(enqueue, jobs)

    service.add_api_route("/background", in_the_background)
    await service.state.redis.delete("notes")
    async with client_for(service) as client:
        for _ in range(2):
            await client.get("/background")
    assert [type(each) for each in raised] == [TransactionEnded] * 2
    assert await service.state.redis.lrange("notes", 0, -1) == []
    assert await service.state.read_session.first(ONE)
