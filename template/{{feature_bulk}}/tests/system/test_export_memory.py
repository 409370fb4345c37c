"""Exports of a real server: memory is flat, an error is visible, and a client may leave.

``EXPORT_ROWS=1000000`` makes the large export larger.
"""

import os
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.system.serving import Serve, Server

ROWS = int(os.environ.get("EXPORT_ROWS", "200000"))
GROWTH = 16_000_000  # bytes; the large export is larger than that itself
APP = """
import resource, sys
from fastapi.responses import StreamingResponse
from sqlalchemy import Integer, bindparam, func, literal, select
from app import main
from app.platform.http import routing
from app.platform.http.exports import ExportFormat, ExportsDep
from app.platform.data.database import DatabaseDep

count = bindparam("count", type_=Integer)
NUMBER = func.generate_series(1, count)
ROWS = select(NUMBER.label("n"), func.repeat("x", 100).label("text"))
FAILING = select((literal(1) / (NUMBER - 150000)).label("n"))

async def rows(exports: ExportsDep, count: int, format: ExportFormat) -> StreamingResponse:
    return await exports.send(ROWS, format, name="rows", count=count)

async def failing(exports: ExportsDep) -> StreamingResponse:
    return await exports.send(FAILING, ExportFormat.CSV, name="rows", count=200000)

async def state(database: DatabaseDep) -> tuple[int, int]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024), database.used

def create_app():
    app = main.create_app()
    for route in (rows, failing):
        app.add_api_route(f"/test/{route.__name__}", route, response_model=None)
    app.add_api_route("/test/state", state)
    routing.install_index(app)
    return app
"""


@pytest.fixture
def exporting(serve: Serve, tmp_path: Path) -> Callable[..., Server]:
    (tmp_path / "exports_under_test.py").write_text(APP)

    def start() -> Server:
        return serve("gunicorn", "exports_under_test:create_app()", WEB_CONCURRENCY="1")

    return start


def export(server: Server, count: int, format: str) -> int:
    """The number of lines of an export, which is not kept in memory here either."""
    path = f"{server.url}/test/rows?count={count}&format={format}"
    with httpx2.stream("GET", path, timeout=120) as response:
        assert response.status_code == 200
        return sum(chunk.count(b"\n") for chunk in response.iter_bytes())


def test_exports_are_flat_in_memory_and_end_with_their_client(
    exporting: Callable[..., Server],
) -> None:
    server = exporting()
    assert export(server, 10_000, "jsonl") == 10_000
    assert export(server, 10_000, "csv") == 10_001
    before, _ = server.get("/test/state").json()
    assert export(server, ROWS, "jsonl") == ROWS
    assert export(server, ROWS, "csv") == ROWS + 1
    after, _ = server.get("/test/state").json()
    assert after - before < GROWTH
    # Components of the service use one for a moment.
    server.until(lambda: server.get("/test/state").json()[1] == 0)

    with pytest.raises(httpx2.RemoteProtocolError):
        server.get("/test/failing")
    path = f"{server.url}/test/rows?count=100000000&format=csv"
    with httpx2.stream("GET", path) as response:
        next(response.iter_bytes())
        assert server.get("/test/state").json()[1] == 1
    server.until(lambda: server.get("/test/state").json()[1] == 0)
    assert export(server, 10, "csv") == 11
