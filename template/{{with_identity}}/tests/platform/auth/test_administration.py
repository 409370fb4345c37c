"""The routes of administrators and their audit log, of every auth style."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.platform.auth import audit_log
from app.platform.auth.audit_log import Actor
from tests.actors import sign_in, sign_in_with
from tests.conftest import client_for

EVENTS = "/api/v1/admin/audit-events"
NO_SUCH_ID = "00000000-0000-0000-0000-000000000000"
ADA = Actor("ada")


@pytest.fixture
async def administrator(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(app) as client:
        client.headers.update(await sign_in_with(app, client, "admin@example.com", "admin"))
        yield client


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and path of each operation below ``/admin``, with an id that does not exist."""
    for path, operations in app.openapi()["paths"].items():
        if "/admin/" in path:
            filled = "/".join(NO_SUCH_ID if "{" in part else part for part in path.split("/"))
            yield from ((method, filled) for method in operations)


async def record(app: FastAPI, *subjects: str) -> None:
    """An event about each subject, in this order."""
    async with app.state.db.transaction() as db:
        for subject in subjects:
            await audit_log.record(db, ADA, "role_grant", subject, role="admin")


async def events(client: httpx2.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    answer = await client.get(EVENTS, params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


async def test_no_route_of_administrators_serves_other_callers(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    caller = await sign_in(client, "carol@example.com")
    found = list(routes(app))
    answers = {each: await client.request(*each, headers=caller) for each in found}
    anonymous = {each: await client.request(*each) for each in found}

    assert ("get", EVENTS) in answers
    wrong = {each: answer.text for each, answer in answers.items() if answer.status_code != 403}
    assert wrong == {}
    assert all('scope="admin"' in each.headers["WWW-Authenticate"] for each in answers.values())
    assert {answer.status_code for answer in anonymous.values()} == {401}


async def test_no_answer_to_administrators_is_stored(
    app: FastAPI, administrator: httpx2.AsyncClient
) -> None:
    answers = [await administrator.request(*each) for each in routes(app)]

    assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}


async def test_the_audit_log_is_read_in_pages_newest_first(
    app: FastAPI, administrator: httpx2.AsyncClient
) -> None:
    await record(app, "one", "two", "three")
    first = (await administrator.get(EVENTS, params={"actor": "ada", "limit": 2})).json()
    query = {"actor": "ada", "limit": 2, "cursor": first["next"]}
    second = (await administrator.get(EVENTS, params=query)).json()

    assert [event["subject"] for event in first["items"]] == ["three", "two"]
    assert [event["subject"] for event in second["items"]] == ["one"]
    assert second["next"] is None
    newest = first["items"][0]
    assert (newest["actor"], newest["action"]) == ("ada", "role_grant")
    assert newest["details"] == {"role": "admin"}


async def test_the_audit_log_is_filtered(app: FastAPI, administrator: httpx2.AsyncClient) -> None:
    await record(app, "one", "two")
    [one] = await events(administrator, subject="one")
    seen = {
        "action": await events(administrator, subject="one", action="role_revoke"),
        "actor": await events(administrator, subject="one", actor="bob"),
        "from": await events(administrator, subject="one", at_from=one["at"]),
        "before": await events(administrator, subject="one", at_before=one["at"]),
    }

    assert {name: len(found) for name, found in seen.items()} == {
        "action": 0,
        "actor": 0,
        "from": 1,
        "before": 0,
    }
    assert (await administrator.get(EVENTS, params={"subjct": "one"})).status_code == 422


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET actor = 'nobody'",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
    ],
)
async def test_the_audit_log_is_append_only(
    app: FastAPI, administrator: httpx2.AsyncClient, statement: str
) -> None:
    await record(app, "one")

    with pytest.raises(DBAPIError, match="append-only"):
        async with app.state.db.transaction() as db:
            await db.execute(text(statement))
    assert [event["actor"] for event in await events(administrator, subject="one")] == ["ada"]


async def test_audit_events_are_deleted_after_a_year(
    app: FastAPI, administrator: httpx2.AsyncClient
) -> None:
    await record(app, "one")
    old = "INSERT INTO audit_events (at, actor, action, subject, details)"
    values = "(now() - interval '366 days', 'a', 'old', 'one', '{}')"
    async with app.state.db.transaction() as db:
        await db.execute(text(f"{old} VALUES {values}"))
        await db.execute(text("DELETE FROM audit_events WHERE at < now() - interval '1 year'"))

    found = await events(administrator, subject="one")
    assert [event["action"] for event in found] == ["role_grant"]


async def test_an_event_of_a_transaction_that_rolls_back_is_not_recorded(
    app: FastAPI, administrator: httpx2.AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    async def fail() -> None:
        async with app.state.db.transaction() as db:
            await audit_log.record(db, ADA, "role_grant", "one")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await events(administrator, subject="one") == []
    assert "audit.role_grant" not in capfd.readouterr().out
