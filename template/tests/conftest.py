"""Fixtures: real Postgres and Redis, the app, clients, databases.

``app`` runs in this process, inside one transaction that is rolled back after each test. Use
``module_settings`` for tests that need several connections at once: they share one database per
module. Use ``fresh_settings`` for tests that start processes: each gets its own database.
"""

import asyncio
import gc
import os
import secrets
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import httpx2
import pytest
import uvloop
from alembic import command
from alembic.config import Config
from fastapi import FastAPI
from redis import Redis
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from app import api
from app.main import create_app
from app.platform.base.cpus import available_cpus
from app.platform.data.database import Database, ReadSession
from app.platform.data.prepared_reads import PreparedReads
from app.platform.dev.servers import KINDS, given, services
from app.settings import Settings, get_settings
from tests.actors import seed, sign_in

T = TypeVar("T")
# A busy machine is slow by itself; the tests of these lines have limits of their own.
QUIET = {"loop_block_ms": 0, "slow_request_ms": 0, "slow_statement_ms": 0}
ROOT = Path(__file__).parent.parent
needs_migrations = pytest.mark.skipif(
    not any((ROOT / "migrations/versions").glob("*.py")), reason="this service has no migrations"
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """One test more than CPUs at once: tests wait for Postgres and for processes that they start.

    A single file runs in this process: that is quicker, and a debugger can be used.
    """
    return 0 if len(config.args) == 1 and ".py" in config.args[0] else available_cpus() + 1


class Loop(uvloop.Loop):
    """An event loop that fails where it is closed before its connections are."""

    def close(self) -> None:
        # As an error, the warning would stop uvloop from closing them: it would wait forever.
        with warnings.catch_warnings(record=True) as unclosed:
            warnings.simplefilter("always")
            super().close()
        assert not unclosed, [str(warning.message) for warning in unclosed]


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": Loop}


@pytest.fixture(scope="session")
def server_urls(worker_id: str) -> Iterator[dict[str, str]]:
    """The URLs of Postgres, Redis...: the given ones, or servers for this run only."""
    with services() as servers:
        urls = dict(servers)
        if redis := given().get("REDIS_URL"):  # one database per process, counting down from 15
            number = 15 - (0 if worker_id == "master" else int(worker_id.removeprefix("gw")))
            urls["REDIS_URL"] = str(httpx2.URL(redis).copy_with(path=f"/{number}"))
        yield urls


def run_sync(work: Coroutine[Any, Any, Any]) -> None:
    """Run ``work`` to its end from synchronous code, whether or not a loop runs here."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


@asynccontextmanager
async def open_connection(url: URL, **options: Any) -> AsyncIterator[AsyncConnection]:
    """Connect, and dispose of the engine: an open one would hang the run."""
    engine = create_async_engine(url, **options)
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def _administer(server: URL, *statements: str) -> None:
    async with open_connection(server, isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            await connection.execute(text(statement))


@pytest.fixture(scope="session")
def create_database(server_urls: dict[str, str]) -> Iterator[Callable[..., URL]]:
    """Create databases, optionally from a template; drop them on a server that is not ours."""
    server = make_url(server_urls["DATABASE_URL"])
    made: list[str] = []

    def new(template: str = "template1") -> URL:
        name = f"test_{secrets.token_hex(6)}"
        run_sync(_administer(server, f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
        made.append(name)
        return server.set(database=name)

    yield new
    if "DATABASE_URL" not in given():
        return  # the server is deleted anyway, and each DROP would cost a checkpoint
    drops = (f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)' for name in made)
    run_sync(_administer(server, *drops))


@pytest.fixture(scope="session")
def migrated_template(create_database: Callable[..., URL]) -> str:
    """The name of a migrated database without connections, to copy from."""
    url = create_database()
    run_sync(migrate(url))
    run_sync(seed(url))
    assert url.database
    return url.database


async def migrate(url: URL, revision: str = "heads", *, down: bool = False) -> None:
    """Run the migrations against ``url``, as ``app migrate`` would."""
    config = Config(toml_file=str(ROOT / "pyproject.toml"))
    run = command.downgrade if down else command.upgrade

    def with_connection(connection: Any) -> None:
        config.attributes["connection"] = connection
        run(config, revision)

    async with open_connection(url) as connection:
        await connection.run_sync(with_connection)


def make_settings(database: URL, server_urls: dict[str, str], **changes: Any) -> Settings:
    """Return settings for a test: the defaults and ``changes``."""
    values: dict[str, Any] = {name.lower(): url for name, url in server_urls.items()}
    values["environment"] = "test"
    values["secret_key"] = secrets.token_hex(32)
    values["database_url"] = database.render_as_string(hide_password=False)
    values["rate_limit_timeout"] = 30  # so that a busy machine does not switch to local counting
    values |= QUIET
    return Settings(**values | changes)


@pytest.fixture(scope="session")
def settings(
    create_database: Callable[..., URL], migrated_template: str, server_urls: dict[str, str]
) -> Settings:
    """The settings of the app that the tests in this process share.

    Its database is read-only, except in the transaction of ``app``: what a test commits, the next
    one would find. A test that commits takes ``module_settings`` or ``fresh_settings``.
    """
    url = create_database(migrated_template)
    read_only = f'ALTER DATABASE "{url.database}" SET default_transaction_read_only = on'
    run_sync(_administer(url, read_only))
    return make_settings(url, server_urls)


@pytest.fixture
def fresh_settings(
    create_database: Callable[..., URL], migrated_template: str, server_urls: dict[str, str]
) -> Settings:
    """Settings with a migrated database of this test's own."""
    return make_settings(create_database(migrated_template), server_urls)


@pytest.fixture(scope="module")
def module_settings(
    create_database: Callable[..., URL], migrated_template: str, server_urls: dict[str, str]
) -> Settings:
    """Settings with a migrated database for the tests of one module, in which they commit."""
    return make_settings(create_database(migrated_template), server_urls)


@pytest.fixture
def environment(fresh_settings: Settings, server_urls: dict[str, str]) -> dict[str, str]:
    """The environment of a process that the test starts: a database of its own, an empty Redis."""
    with Redis.from_url(server_urls["REDIS_URL"]) as redis:
        redis.flushdb()  # limits per client would count the calls of other tests
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        **server_urls,
        **{name.upper(): str(value) for name, value in QUIET.items()},
        "ENVIRONMENT": "test",
        "SECRET_KEY": fresh_settings.secret_key.get_secret_value(),
        "DATABASE_URL": fresh_settings.database_url.get_secret_value(),
        "PYTHONUNBUFFERED": "1",
    }


@asynccontextmanager
async def running_app(settings: Settings) -> AsyncIterator[FastAPI]:
    """Run a separate app, with the lifespan of its components."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


@asynccontextmanager
async def running_platform(settings: Settings) -> AsyncIterator[FastAPI]:
    """Run a separate app without the API, whose routes take longest to build.

    For tests of the platform, which add routes of their own.
    """
    with patch.object(api, "VERSIONS", ()):
        app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Keep what is imported out of garbage collections, and collect as seldom as a server does."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


class SingleTransactionDatabase(Database):
    """A database whose every transaction is a savepoint on one connection.

    As in production, a request's reads see what its own transaction has written.
    """

    join_transaction_mode = "create_savepoint"

    def __init__(self, database: Database, connection: AsyncConnection) -> None:
        self.__dict__.update(database.__dict__)
        self._connection = connection
        self.prepared_reads = PreparedReads(enabled=False)  # they would run past the transaction

    @contextmanager
    def connect(self, *, autocommit: bool = False) -> Iterator[Connection]:
        assert self._connection.sync_connection
        yield self._connection.sync_connection


@pytest.fixture(scope="session")
async def shared_app(settings: Settings) -> AsyncIterator[FastAPI]:
    async with running_app(settings) as app:
        yield app


@pytest.fixture
async def app(shared_app: FastAPI) -> AsyncIterator[FastAPI]:
    """The app, inside a transaction that is rolled back, with an empty Redis."""
    database: Database = shared_app.state.db
    routes = list(shared_app.router.routes)
    await shared_app.state.redis.flushdb()
    async with database.engine.connect() as connection, connection.begin() as transaction:
        await connection.execute(text("SET TRANSACTION READ WRITE"))
        shared_app.state.db = SingleTransactionDatabase(database, connection)
        shared_app.state.read_session = ReadSession(shared_app.state.db)
        yield shared_app
        shared_app.state.access_log.flush()  # or its lines appear in the next test
        await transaction.rollback()
    shared_app.state.db, shared_app.state.read_session = database, ReadSession(database)
    shared_app.router.routes[:] = routes  # without those that the test has added


def client_for(app: FastAPI) -> httpx2.AsyncClient:
    """Return a client that calls the app in this process, from the address 127.0.0.1."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://test")


async def connect_websocket(app: FastAPI, path: str, headers: Mapping[str, str]) -> list[str]:
    """The texts that the app sends on a WebSocket until it closes it."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"host": "test", **headers}
    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "subprotocols": [],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
        "headers": [(k.lower().encode(), v.encode()) for k, v in given.items()],
    }
    await app(scope, receive, send)
    return [message["text"] for message in sent if message["type"] == "websocket.send"]


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """An anonymous client."""
    async with client_for(app) as client:
        yield client


@pytest.fixture
def queries(app: FastAPI) -> Iterator[list[str]]:
    """The statements that the app sends to Postgres, in order.

    A list endpoint must not send more of them the longer its list is.
    """
    statements: list[str] = []

    def before_cursor_execute(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement)

    engine = app.state.db.engine.sync_engine
    event.listen(engine, "before_cursor_execute", before_cursor_execute)
    yield statements
    event.remove(engine, "before_cursor_execute", before_cursor_execute)


@pytest.fixture
async def alice(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that is signed in."""
    async with client_for(app) as client:
        client.headers.update(await sign_in(client, "alice@example.com"))
        yield client


@pytest.fixture
async def bob(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that is signed in as another user."""
    async with client_for(app) as client:
        client.headers.update(await sign_in(client, "bob@example.com"))
        yield client


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_this_shell() -> Iterator[None]:
    """Ignore the settings in this shell and in a ``.env``, except the servers that they name."""
    names = Settings.model_fields.keys() - {kind.variable.lower() for kind in KINDS}
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(Settings.model_config, "env_file", None)
        for variable in [*os.environ]:
            if variable.lower().removesuffix("_file").partition("__")[0] in names:
                patched.delenv(variable)
        yield


@pytest.fixture(autouse=True)
def _no_cached_settings() -> Iterator[None]:
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()
