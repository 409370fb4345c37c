"""SELECTs for metrics, which fail soon where a table is locked."""

from collections.abc import Sequence
from typing import TypeVarTuple

from fastapi import FastAPI
from sqlalchemy import Row, Select, text

from app.platform.base import context

# With this, a scrape that finds one table locked reads the others within metrics.SOURCE_TIMEOUT.
LOCK_TIMEOUT = text("SET LOCAL lock_timeout = '300ms'")
Columns = TypeVarTuple("Columns")


async def select_for_metrics(app: FastAPI, statement: Select[*Columns]) -> Sequence[Row[*Columns]]:
    """All rows. The SELECTs of one scrape run one by one, so that it uses one connection."""
    async with context.current().read_lock, app.state.db.transaction() as session:
        await session.execute(LOCK_TIMEOUT)
        rows: Sequence[Row[*Columns]] = (await session.execute(statement)).all()
        return rows
