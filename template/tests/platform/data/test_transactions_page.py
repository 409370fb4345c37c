"""The examples of ``docs/transactions.md`` work as they are printed."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.platform.jobs.queue import find_status
from app.settings import Settings
from tests.conftest import ROOT, client_for, running_platform


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the examples of the page define, with a table that no feature has."""
    namespace: dict[str, Any] = {"__name__": "app.transactions_page"}
    text = (ROOT / "docs/transactions.md").read_text()
    text = re.sub(r'\b(INTO |UPDATE |table\(")notes\b', r"\1notes_of_a_test", text)
    for example in re.findall(r"```python\n(.+?)```", text, re.DOTALL):
        exec(example, namespace)
    return namespace


@pytest.fixture
async def service(module_settings: Settings) -> AsyncIterator[FastAPI]:
    """An app with a single connection and a table ``notes_of_a_test``."""
    changes = {"db_pool_size": 1, "db_max_overflow": 0}
    async with running_platform(module_settings.model_copy(update=changes)) as app:
        async with app.state.db.transaction() as session:
            await session.execute(text("CREATE TABLE notes_of_a_test (body text)"))
        yield app
        async with app.state.db.transaction() as session:
            await session.execute(text("DROP TABLE notes_of_a_test"))


async def test_a_background_task_opens_its_own_transaction(
    service: FastAPI, page: dict[str, Any]
) -> None:
    service.add_api_route("/notes", page["create_note"], methods=["POST"])
    async with client_for(service) as client:
        assert (await client.post("/notes")).status_code == 200
    async with service.state.db.transaction() as session:
        assert await session.scalar(text("SELECT body FROM notes_of_a_test")) == "counted"


async def test_a_streamed_response_reads_page_by_page(
    service: FastAPI, page: dict[str, Any]
) -> None:
    async with service.state.db.transaction() as session:
        rows = "SELECT 'note ' || n FROM generate_series(1, 250) AS n"
        await session.execute(text(f"INSERT INTO notes_of_a_test {rows}"))
    service.add_api_route("/export", page["export_notes"])
    async with client_for(service) as client:
        response = await client.get("/export")
    assert sorted(response.text.splitlines()) == sorted(f"note {n}" for n in range(1, 251))


async def test_a_route_and_a_job_enqueue_in_their_transactions(
    service: FastAPI, page: dict[str, Any]
) -> None:
    service.add_api_route("/close", page["close_month"], methods=["POST"])
    async with client_for(service) as client:
        response = await client.post("/close")
    assert response.status_code == 200
    assert await find_status(service, response.json()["id"], owner=None)
