"""One change for each key: when a process is killed, and when the answer to a commit is lost."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
from fastapi import APIRouter, Request
from sqlalchemy import make_url, text

from app.platform.data.database import SessionDep
from app.platform.http import routing
from app.platform.http.idempotency import idempotent
from app.settings import Settings
from tests.conftest import client_for, open_connection, running_app
from tests.system.serving import Serve, Server

CLIENTS = 200
KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
TABLE = "CREATE TABLE payments_of_a_test (number serial, pid int)"

# The first process that has inserted the row waits, with its transaction open, for the gate.
APP = """
import asyncio, os
from pathlib import Path
from fastapi import APIRouter
from sqlalchemy import text
from app import main
from app.platform.data.database import SessionDep
from app.platform.http import routing
from app.platform.http.idempotency import idempotent
from app.platform.http.rate_limit import client_key

async def pay(session: SessionDep) -> dict[str, int]:
    statement = text("INSERT INTO payments_of_a_test (pid) VALUES (:pid) RETURNING number")
    number = (await session.execute(statement, {"pid": os.getpid()})).scalar_one()
    here = Path(os.environ["GATES"])
    with (here / "reached").open("a") as reached:
        reached.write(f"{os.getpid()}\\n")
    while not (here / "open").exists():
        await asyncio.sleep(0.02)
    return {"number": number, "pid": os.getpid()}

def create_app():
    app = main.create_app()
    router = APIRouter(route_class=idempotent(by=client_key))
    router.add_api_route("/test/pay", pay, methods=["POST"])
    app.include_router(router)
    routing.install_index(app)
    return app
"""


async def run(settings: Settings, statement: str) -> int:
    async with open_connection(make_url(settings.database_url.get_secret_value())) as connection:
        result = await connection.execute(text(statement))
        await connection.commit()
        return int(result.scalar_one()) if result.returns_rows else 0


async def repeat(client: httpx2.AsyncClient, outcomes: Counter[str]) -> httpx2.Response:
    """Send the request until it succeeds, as a client does that was told to try again."""
    while True:
        try:
            response = await client.post("/test/pay", headers=KEY)
        except httpx2.TransportError:
            outcomes["lost"] += 1
        else:
            outcomes[str(response.status_code)] += 1
            if response.is_success:
                return response
        await asyncio.sleep(0.2)


async def test_200_clients_with_one_key_make_one_change_although_a_process_is_killed(
    serve: Serve, fresh_settings: Settings, tmp_path: Path
) -> None:
    await run(fresh_settings, TABLE)
    (tmp_path / "idempotent_service.py").write_text(APP)
    server: Server = await asyncio.to_thread(
        serve, "gunicorn", "idempotent_service:create_app()", RATE_LIMIT="off"
    )
    outcomes: Counter[str] = Counter()
    limits = httpx2.Limits(max_connections=CLIENTS)
    async with (
        asyncio.timeout(60),
        httpx2.AsyncClient(base_url=server.url, timeout=30, limits=limits) as client,
        asyncio.TaskGroup() as group,
    ):
        clients = [group.create_task(repeat(client, outcomes)) for _ in range(CLIENTS)]
        reached = tmp_path / "reached"
        await asyncio.to_thread(server.until, reached.exists)
        killed = int(reached.read_text().split()[0])
        os.kill(killed, signal.SIGKILL)
        await asyncio.to_thread(server.until, lambda: len(reached.read_text().split()) > 1)
        (tmp_path / "open").touch()
    assert len({each.result().content for each in clients}) == 1
    assert clients[0].result().json()["pid"] != killed
    assert await run(fresh_settings, "SELECT count(*) FROM payments_of_a_test") == 1
    assert outcomes["lost"] > 0
    assert set(outcomes) <= {"200", "409", "503", "lost"}, outcomes


class Proxy:
    """A proxy to Postgres that loses the next answer to a COMMIT, with the connection.

    ``before``: the COMMIT itself is lost, too.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self.armed = False
        self.before = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        yield self._url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        server.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(self._url.host, self._url.port)
        answers = asyncio.create_task(self._copy(server_reader, writer))
        while data := await reader.read(65536):
            lose = self.armed and b"COMMIT;" in data  # not READ COMMITTED
            if lose:
                self.armed = False
                answers.cancel()
                await asyncio.gather(answers, return_exceptions=True)
            if not (lose and self.before):
                server_writer.write(data)
            if lose:
                if not self.before:
                    await server_reader.read(65536)  # the answer: it is committed
                break
        writer.transport.abort()
        server_writer.transport.abort()
        await asyncio.gather(answers, return_exceptions=True)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.transport.abort()  # else the client would wait for the end of a closed session


async def caller(_: Request) -> str:
    return "ada"


async def pay(session: SessionDep) -> int:
    statement = text("INSERT INTO payments_of_a_test DEFAULT VALUES RETURNING number")
    return int((await session.execute(statement)).scalar_one())


async def repeated_after_a_lost_commit(
    settings: Settings, before: bool
) -> tuple[httpx2.Response, httpx2.Response, int]:
    """The responses to a request whose COMMIT is lost and to its repetition; changes made."""
    await run(settings, TABLE)
    proxy = Proxy(settings.database_url.get_secret_value())
    proxy.before = before
    async with proxy.running() as url:
        through = settings.model_copy(update={"database_url": type(settings.database_url)(url)})
        async with running_app(through) as app, client_for(app) as client:
            router = APIRouter(route_class=idempotent(by=caller))
            router.add_api_route("/test/pay", pay, methods=["POST"])
            app.include_router(router)
            routing.install_index(app)
            proxy.armed = True
            first = await client.post("/test/pay", headers=KEY)
            second = await client.post("/test/pay", headers=KEY)
    return first, second, await run(settings, "SELECT count(*) FROM payments_of_a_test")


async def test_a_request_whose_commit_was_answered_to_nobody_can_be_repeated(
    fresh_settings: Settings,
) -> None:
    first, second, changes = await repeated_after_a_lost_commit(fresh_settings, before=False)
    assert (first.status_code, first.json()["code"]) == (503, "outcome_unknown")
    assert (second.status_code, second.json()) == (200, 1)
    assert second.headers["Idempotency-Replayed"] == "true"
    assert changes == 1


async def test_a_request_whose_commit_was_lost_runs_again(fresh_settings: Settings) -> None:
    first, second, changes = await repeated_after_a_lost_commit(fresh_settings, before=True)
    assert (first.status_code, first.json()["code"]) == (503, "outcome_unknown")
    assert second.status_code == 200
    assert "Idempotency-Replayed" not in second.headers
    assert changes == 1
