"""Workers use no more connections than are counted, and outlive a server that is away."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.engine import make_url

from app.platform.jobs import capacity, pools
from app.settings import Settings
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import Service, Start
from tests.test_cli import run

# How a request to cancel a statement begins: it is no session, and takes none of the connections.
# https://www.postgresql.org/docs/current/protocol-message-formats.html
CANCEL = (80877102).to_bytes(4, "big")
# A session that replaces one that was given up may overlap it for as long as its end takes.
OVERLAP = 0.1  # seconds
OUTAGE = 3.0  # seconds: every process has used its connections by then, and failed


class Link:
    """A way to a server that can be cut: what is open breaks, and nobody gets through.

    What clients send with ``loses`` in it does not arrive.
    """

    loses = b""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._port = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._sessions: set[asyncio.StreamWriter] = set()
        self.most = 0  # sessions at once, so far

    @property
    def url(self) -> str:
        here = self._url.set(host="127.0.0.1", port=self._port)
        return here.render_as_string(hide_password=False)

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        self._server.close()
        for writer in self._open:
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._url.host, self._url.port)
        self._open |= {writer, back}
        first = await reader.read(65536)  # clients are those who begin
        if first[4:8] != CANCEL:
            self._sessions.add(writer)
            asyncio.get_running_loop().call_later(OVERLAP, self._count)
        back.write(first)
        await asyncio.gather(self._copy(reader, back, True), self._copy(there, writer))
        self._sessions.discard(writer)
        self._open -= {writer, back}

    def _count(self) -> None:
        self.most = max(self.most, len(self._sessions))

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, from_client: bool = False
    ) -> None:
        try:
            while data := await reader.read(65536):
                if not (from_client and self.loses and self.loses in data):
                    writer.write(data)
        except ConnectionError:
            pass
        writer.transport.abort()


@pytest.fixture
async def links(environment: dict[str, str]) -> AsyncIterator[dict[str, Link]]:
    """A link to Postgres and one to Redis, by the variable that has its URL."""
    links = {name: Link(environment[name]) for name in ("DATABASE_URL", "REDIS_URL")}
    for link in links.values():
        await link.mend()
    yield links
    for link in links.values():
        link.cut()


@pytest.mark.parametrize("variable", ["DATABASE_URL", "REDIS_URL"])
async def test_an_outage_is_survived(
    variable: str, links: dict[str, Link], service: Service, start: Start
) -> None:
    link = links[variable]
    changes = {variable: link.url, "JOBS_PUBLISH_AGAIN": "1", "WORKER_CONCURRENCY": "2"}
    processes = [start("worker", **changes), start("scheduler", **changes)]
    interrupted = await service.enqueue(samples.wait, gate="open")
    await service.started("open")
    link.cut()
    during = await service.enqueue(samples.note, text="during")
    await asyncio.sleep(OUTAGE)
    await service.app.state.redis.flushdb()
    await link.mend()
    await service.app.state.redis.set("open", 1)
    after = await service.enqueue(samples.note, text="after")
    for job in (interrupted, during, after):
        await service.becomes(job.id, "succeeded")
    for process in processes:
        process.terminate()
    assert [await process.ended() for process in processes] == [0, 0]


async def test_a_worker_opens_no_more_connections_than_are_counted(
    links: dict[str, Link], service: Service, start: Start
) -> None:
    link = links["DATABASE_URL"]
    start("worker", DATABASE_URL=link.url, WORKER_CONCURRENCY="3")
    crowds = [await service.enqueue(samples.crowd) for _ in range(3)]
    for crowd in crowds:
        await service.becomes(crowd.id, "succeeded")
    settings = service.settings.model_copy(update={"worker_concurrency": 3})
    assert 3 < link.most <= capacity.connections(settings)


async def test_a_scheduler_opens_no_more_connections_than_are_counted(
    links: dict[str, Link], service: Service, start: Start
) -> None:
    link = links["DATABASE_URL"]
    start("scheduler", DATABASE_URL=link.url)
    start("worker")
    for _ in range(3):
        job = await service.enqueue(samples.stumble, times=1)
        await service.becomes(job.id, "succeeded")
    assert 0 < link.most <= pools.SCHEDULER


def test_check_counts_the_connections_of_workers(
    environment: dict[str, str], fresh_settings: Settings
) -> None:
    few = run("check", env={**environment, "WORKER_CONCURRENCY": "1"})
    assert few.returncode == 0, few.stdout
    many = run("check", env={**environment, "WORKER_CONCURRENCY": "500"})
    assert many.returncode == 1
    counted = capacity.connections(fresh_settings.model_copy(update={"worker_concurrency": 500}))
    said = f"SPARE=5 + {counted} of a worker (WORKER_CONCURRENCY) + 2 of the scheduler are left"
    assert said in many.stdout
    given = {"WORKER_CONCURRENCY": "1", "DB_RESERVED_CONNECTIONS": "60"}
    said = run("check", env={**environment, **given}).stdout
    assert "of which DB_RESERVED_CONNECTIONS=60 are left" in said  # workers are among the 60
