"""For migrations: indexes that are made and dropped while traffic goes on.

A feature's migration takes these in place of Alembic's ``op.create_index`` and ``op.drop_index``
where the table has been in use before.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from alembic import op
from sqlalchemy import ColumnElement
from sqlalchemy.sql.elements import TextClause

LOCK_TIMEOUT = "1s"  # that a migration waits for a table, with all traffic waiting behind it


def create_index(
    name: str, table: str, columns: Sequence[str | TextClause | ColumnElement[Any]], **options: Any
) -> None:
    """Make an index; what is left of a try that was cut off is replaced."""
    with _non_blocking_ddl():
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        op.create_index(name, table, columns, postgresql_concurrently=True, **options)


def drop_index(name: str, table: str) -> None:
    """Drop an index, if it is there."""
    with _non_blocking_ddl():
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)


@contextmanager
def _non_blocking_ddl() -> Iterator[None]:
    """Run statements one by one, without a limit: they wait for others, and nobody for them."""
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        try:
            yield
        finally:
            op.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
