"""Helpers for migrations: create and drop indexes without blocking writes.

Use them instead of Alembic's ``op.create_index`` and ``op.drop_index`` on tables that are already
in use.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from alembic import op
from sqlalchemy import ColumnElement
from sqlalchemy.sql.elements import TextClause

LOCK_TIMEOUT = "1s"  # while a migration waits for a table lock, all queries queue behind it


def create_index(
    name: str, table: str, columns: Sequence[str | TextClause | ColumnElement[Any]], **options: Any
) -> None:
    """Create an index concurrently, replacing an invalid one left by an interrupted attempt."""
    with _non_blocking_ddl():
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        op.create_index(name, table, columns, postgresql_concurrently=True, **options)


def drop_index(name: str, table: str) -> None:
    """Drop an index concurrently, if it exists."""
    with _non_blocking_ddl():
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)


@contextmanager
def _non_blocking_ddl() -> Iterator[None]:
    """Autocommit without a lock timeout: concurrent DDL may wait long, but blocks no queries."""
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        try:
            yield
        finally:
            op.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
