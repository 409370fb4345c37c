"""Lists whose filters, sort and fields the caller chooses, each from an allow-list.

Each choice has one statement, which is kept: it is as fast as a statement written by hand (see
``prepared_reads``).
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, String, bindparam, tuple_
from sqlalchemy.orm import InstrumentedAttribute

# Statements kept for each list. Callers make the choices, so they can't be kept without a bound.
STATEMENTS = 200
# Characters of a text to sort by: the last one of a page is part of its cursor.
MAX_SORTED_TEXT = 255

Column = InstrumentedAttribute[Any]
Statement = Select[*tuple[Any, ...]]
# The sort column's value and the key of a row: where the next page begins.
Position = tuple[Any, Any]


@dataclass(frozen=True)
class Filter:
    """A comparison with a column: ``Filter(Order.placed_at, operator.ge)``; by default equality.

    ``type``: of the parameter; by default that of the column.
    """

    column: Column
    compare: Callable[[Any, Any], ColumnElement[bool]] = operator.eq
    type: Any = None


@dataclass(frozen=True)
class ListQuery:
    """A caller's choice: up to ``limit`` rows after a position; ``-name`` sorts descending.

    ``fields``: the columns of interest, ``None`` for all. ``filters``: values by name.
    """

    limit: int
    sort: str | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)
    fields: frozenset[str] | None = None
    after: Position | None = None


class Listing:
    """The choices that callers have in a list.

    ``statement`` selects the columns, with ``bindparam()`` for values that are not the caller's
    choice. ``key`` is the primary key: it decides between rows with equal values, so that every
    order is total. ``default`` is the sort without a choice. Each column in ``sorts`` needs an
    index that ends with the key. ``always``: columns that are read whatever ``fields`` are.
    """

    def __init__(
        self,
        statement: Statement,
        *,
        key: Column,
        sorts: Mapping[str, Column],
        default: str,
        filters: Mapping[str, Filter] | None = None,
        always: Sequence[Column] = (),
    ) -> None:
        self.statement = statement
        self.key = key
        self.sorts = {prefix + name: each for name, each in sorts.items() for prefix in ("", "-")}
        self.default = default
        self.filters = dict(filters or {})
        self.fields = tuple(statement.selected_columns.keys())
        self._always = {column.key for column in always}
        self._statement = lru_cache(STATEMENTS)(self._build)
        self._check()

    def _check(self) -> None:
        """Raise ``ValueError`` for a list whose pages would lose rows, or whose cursors break."""
        if self.default not in self.sorts:
            raise ValueError(f"The default sort {self.default!r} is not among the sorts.")
        for name, column in {**self.sorts, "key": self.key}.items():
            if column.key not in self.fields:
                raise ValueError(f"{name}: the statement does not select {column.key!r}.")
            if column.property.columns[0].nullable:
                raise ValueError(
                    f"{name}: rows with NULL in {column.key!r} have no position: add a default"
                    " and `nullable=False`, or leave this sort out."
                )
            length = column.type.length if isinstance(column.type, String) else 0
            if length is None or length > MAX_SORTED_TEXT:
                raise ValueError(
                    f"{name}: {column.key!r} has no length, or one above {MAX_SORTED_TEXT}."
                )

    def select(self, query: ListQuery) -> Statement:
        """The statement; it returns one row more than the limit, if there is a next page."""
        return self._statement(
            query.sort or self.default,
            frozenset(query.filters),
            query.fields,
            query.after is not None,
        )

    def values(self, query: ListQuery) -> dict[str, Any]:
        """The values of the statement, without those that are not the caller's choice."""
        values = {f"filter_{name}": value for name, value in query.filters.items()}
        values["limit"] = query.limit + 1
        if query.after is not None:
            values["after_value"], values["after_key"] = query.after
        return values

    def position(self, query: ListQuery, row: Row[*tuple[Any, ...]]) -> Position:
        """The position at which the page after ``row`` begins."""
        column = self.sorts[query.sort or self.default]
        return getattr(row, column.key), getattr(row, self.key.key)

    def _build(
        self, sort: str, filters: frozenset[str], fields: frozenset[str] | None, later: bool
    ) -> Statement:
        column, key = self.sorts[sort], self.key
        statement = self.statement
        if fields is not None:
            names = {*fields, *self._always, column.key, key.key}
            selected = [each for each in statement.selected_columns if each.key in names]
            statement = statement.with_only_columns(*selected)
        for name in sorted(filters):
            chosen = self.filters[name]
            value: Any = bindparam(f"filter_{name}", type_=chosen.column.type)
            statement = statement.where(chosen.compare(chosen.column, value))
        descending = sort.startswith("-")
        if later:
            row = tuple_(column, key)
            position = tuple_(
                bindparam("after_value", type_=column.type), bindparam("after_key", type_=key.type)
            )
            statement = statement.where(row < position if descending else row > position)
        order = [each.desc() if descending else each for each in (column, key)]
        return statement.order_by(*order).limit(bindparam("limit"))
