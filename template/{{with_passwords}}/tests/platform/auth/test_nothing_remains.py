"""No table keeps the rows of an owner whose account is deleted, whichever feature it belongs to.

A table whose rows stay says why: ``__table_args__ = ({"info": {"outlives_account": "..."}},)``.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import Column, MetaData, Table, Text, event

from app.platform.auth.models import Account
from app.platform.data.database import Base
from tests.accounts import AUTH, PASSWORD, post
from tests.actors import sign_in

# Columns that name a user: `owner`, `user_id`, `created_by`, `customer_email`...
REFERENCE = re.compile(
    r"(^|_)(owner|user|account|caller|customer|member|author|actor|recipient|email)s?(_ids?)?$"
    r"|_by(_id)?$"
)
CHANGE = re.compile(r'(?:DELETE FROM|UPDATE) "?(\w+)"?')


def refers(column: Column[Any]) -> bool:
    """Whether a column names a user."""
    accounts = Account.__table__
    return bool(REFERENCE.search(column.name)) or any(
        key.column.table is accounts for key in column.foreign_keys
    )


def tables() -> list[Table]:
    """The tables of the service, without those that tests declare."""
    mappers = list(Base.registry.mappers)
    of_tests = {each.local_table for each in mappers if each.class_.__module__.startswith("tests.")}
    return [table for table in Base.metadata.sorted_tables if table not in of_tests]


def remaining(tables: Iterable[Table], changed: set[str]) -> list[str]:
    """The tables with users whose rows neither a statement nor a foreign key takes away."""
    gone = set(changed)
    for table in tables:  # after those that they refer to
        cascades = {key.column.table.name for key in table.foreign_keys if key.ondelete}
        if cascades & gone:
            gone.add(table.name)
    return [
        table.name
        for table in tables
        if any(map(refers, table.columns))
        and table.name not in gone
        and not table.info.get("outlives_account")
    ]


@contextmanager
def changes_for(app: FastAPI, *values: str) -> Iterator[set[str]]:
    """The tables from which statements delete, or in which they change, rows with a value."""
    found: set[str] = set()

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        change = CHANGE.match(statement.strip())
        if change and {*map(str, parameters)} & {*values}:
            found.add(change[1])

    engine = app.state.db.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def test_a_deleted_account_leaves_no_row_in_any_table(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    headers = await sign_in(client, "ada@example.com")
    owner = (await client.get(f"{AUTH}/me", headers=headers)).json()
    with changes_for(app, owner["id"], "ada@example.com") as changed:
        answer = await post(client, "delete-account", headers, password=PASSWORD)
    assert answer.status_code == 204

    assert "accounts" in changed
    assert remaining(tables(), changed) == [], (
        "delete the rows in the feature's personal_data.py, or say in the table why they stay:"
        ' __table_args__ = ({"info": {"outlives_account": "..."}},)'
    )


@pytest.mark.parametrize("name", ["owner", "user_id", "created_by", "customer_email", "members"])
def test_a_table_that_a_feature_forgets_is_found(name: str) -> None:
    orders = Table("orders", MetaData(), Column(name, Text))
    assert remaining([orders], {"accounts"}) == ["orders"]
    assert remaining([orders], {"accounts", "orders"}) == []


@pytest.mark.parametrize("name", ["name", "id", "byte_size", "standby"])
def test_a_table_without_users_is_not_asked_for_anything(name: str) -> None:
    assert remaining([Table("products", MetaData(), Column(name, Text))], set()) == []
