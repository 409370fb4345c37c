"""Rows per second of single INSERTs, a multi-row INSERT and COPY, each in one transaction.

    uv run python benchmarks/bulk.py [rows]

On a Postgres of its own, or that of DATABASE_URL, in a temporary table. Compare the ratios.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from sqlalchemy import Column, Integer, MetaData, String, Table, Uuid, insert, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from app.platform.data.bulk import copy_rows
from app.platform.dev.servers import services

ROUNDS = 3
GOODS = Table(
    "goods",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("number", Integer, nullable=False),
    prefixes=["TEMPORARY"],
)
Row = dict[str, Any]


async def one_by_one(session: AsyncSession, rows: list[Row]) -> None:
    statement = insert(GOODS)
    for row in rows:
        await session.execute(statement, row)


async def multi_row(session: AsyncSession, rows: list[Row]) -> None:
    (await session.execute(insert(GOODS).returning(GOODS.c.id), rows)).all()


async def copy(session: AsyncSession, rows: list[Row]) -> None:
    await copy_rows(session, GOODS, list(GOODS.c.keys()), (list(row.values()) for row in rows))


WAYS: list[Callable[[AsyncSession, list[Row]], Awaitable[None]]] = [one_by_one, multi_row, copy]


async def main(url: str, count: int) -> None:
    engine = create_async_engine(url)
    best = dict.fromkeys(WAYS, float("inf"))
    async with engine.connect() as connection:
        await connection.run_sync(GOODS.create)
        await connection.commit()
        for _ in range(ROUNDS):
            for way in WAYS:
                rows = [{"id": uuid4(), "name": f"good {n}", "number": n} for n in range(count)]
                async with AsyncSession(connection) as session:
                    started = time.perf_counter()
                    await way(session, rows)
                    await session.commit()
                    best[way] = min(best[way], time.perf_counter() - started)
                await connection.execute(text("TRUNCATE goods"))
                await connection.commit()
    await engine.dispose()
    for way, seconds in best.items():
        ratio = best[one_by_one] / seconds
        print(f"{way.__name__:12} {count / seconds:10,.0f} rows/s  {ratio:6.1f}x")


if __name__ == "__main__":
    with services() as servers:
        asyncio.run(main(servers["DATABASE_URL"], int(sys.argv[1]) if sys.argv[1:] else 20_000))
