"""The query parameters of lists: pages, and filters, sorts and fields from an allow-list.

A parameter, field or sort that the list does not know is a 422: a filter that is misspelt and
ignored would return everything. A cursor is valid for one list, with one sort and the same filters.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from inspect import Parameter, Signature
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    NaiveDatetime,
    TypeAdapter,
)
from pydantic_core import to_json
from sqlalchemy import (
    BigInteger,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    Numeric,
    SmallInteger,
    String,
    Time,
)
from sqlalchemy.types import TypeEngine

from app.platform.base.errors import BadRequest
from app.platform.base.signing import Keys, derive_keys, sign, verify
from app.platform.data.listing import Filter, Listing, ListQuery, Position
from app.platform.http.pagination import MAX_LIMIT, Page
from app.platform.http.schemas import STORABLE

# Enough for a text of MAX_SORTED_TEXT characters, each of which takes six bytes in JSON.
MAX_CURSOR = 2400
BITS = {SmallInteger: 16, BigInteger: 64, Integer: 32}
MAX_TEXT = 1000
# Of a number that is compared with a NUMERIC without a precision; Postgres stores up to 147,455.
MAX_DIGITS = 1000
# Of `real`, and the bits of its fraction: a Float of at most so many is one.
MAX_REAL, REAL_BITS = 3.4028234e38, 24
MAX_OFFSET = timedelta(hours=16)  # of a time with a zone: Postgres knows none as large
RFC_3339_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)

T = TypeVar("T", bound=BaseModel)
Rows = Sequence[Any]


class ListPaging:
    """A caller's choice of a list, as ``query``, and the page that answers it."""

    def __init__(self, listing: Listing, query: ListQuery, keys: Keys) -> None:
        self.query = query
        self._listing = listing
        self._keys = keys

    def page(self, rows: Rows, model: type[T]) -> Page[T]:
        """The page of the rows that ``listing.select(query)`` returns."""
        shown = rows[: self.query.limit]
        items = _items(shown, model, self.query.fields)
        if len(rows) <= self.query.limit:
            return Page(items=items, next=None)
        position = self._listing.position(self.query, shown[-1])
        return Page(items=items, next=sign(self._keys, to_json(position)))


def _items(rows: Rows, model: type[T], fields: Collection[str] | None) -> list[T]:
    """Pydantic reads dictionaries three times as fast as the attributes of rows."""
    if fields is None:
        names = rows[0]._fields if rows else ()
        values = [dict(zip(names, row, strict=True)) for row in rows]
    else:
        values = [{name: getattr(row, name) for name in fields} for row in rows]
    items: list[T] = _list_of(model).validate_python(values)
    return items


@cache
def _list_of(model: type[BaseModel]) -> TypeAdapter[list[Any]]:
    return TypeAdapter(list[model])  # type: ignore[valid-type]


def list_paging(
    name: str, listing: Listing, *, fields: type[BaseModel] | None = None
) -> Callable[..., ListPaging]:
    """A dependency for the list ``name``, with a parameter for each of its filters.

    With ``fields``, a ``PartialModel``, the route needs the parameter ``fields``: names of the
    model's fields, separated by commas.
    """
    key = _python_type(listing.key.type)
    positions: dict[str, TypeAdapter[Position]] = {
        sort: TypeAdapter(tuple[_python_type(column.type), key])  # type: ignore[misc, arg-type]
        for sort, column in listing.sorts.items()
    }
    parameters = _parameters(listing, fields)
    names = {each.name for each in parameters}

    async def dependency(
        request: Request,
        limit: int,
        cursor: str | None,
        sort: str,
        fields: Sequence[str] | None = None,
        **given: Any,
    ) -> ListPaging:
        if request.scope["query_string"]:
            _check_names(request, names)
        filters = {key: value for key, value in given.items() if value is not None}
        purpose = f"cursor:{name}"
        if filters or sort != listing.default:
            purpose = to_json([purpose, sort, sorted(filters.items())]).decode()
        keys = derive_keys(request.app.state.settings, purpose)
        after = _position(positions[sort], keys, cursor)
        chosen = frozenset(fields) if fields else None
        return ListPaging(listing, ListQuery(limit, sort, filters, chosen, after), keys)

    dependency.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return dependency  # type: ignore[return-value]


def _position(adapter: TypeAdapter[Position], keys: Keys, cursor: str | None) -> Position | None:
    if cursor is None:
        return None
    try:
        return adapter.validate_json(verify(keys, cursor))
    except ValueError:
        raise BadRequest(
            "The cursor is not valid for this list with these filters and this sort."
        ) from None


def _check_names(request: Request, own: Collection[str]) -> None:
    """Raise for query parameters that neither the list nor its route has."""
    if unknown := [name for name in request.query_params if name not in own]:
        known = {*_query_parameters(request.scope["route"].dependant)}
        message = f"Unknown parameter: this list has {', '.join(sorted(known))}"
        errors = [
            {"loc": ("query", name), "msg": message, "type": "unknown"}
            for name in unknown
            if name not in known
        ]
        if errors:
            raise RequestValidationError(errors)


def _query_parameters(dependant: Dependant) -> Iterator[str]:
    yield from (each.alias for each in dependant.query_params)
    for each in dependant.dependencies:
        yield from _query_parameters(each)


def _parameters(listing: Listing, fields: type[BaseModel] | None) -> list[Parameter]:
    sorts: Any = Literal[tuple(listing.sorts)]
    limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
    cursor = Annotated[str | None, Query(max_length=MAX_CURSOR)]
    order = Annotated[sorts, Query(description="The primary key decides between equal values")]
    parameters = [
        _parameter("request", Request),
        _parameter("limit", limit, 20),
        _parameter("cursor", cursor, None),
        _parameter("sort", order, listing.default),
    ]
    if fields is not None:
        if unknown := set(fields.model_fields) - set(listing.fields):
            raise ValueError(f"The list does not select {', '.join(sorted(unknown))}.")
        one: Any = Literal[tuple(fields.model_fields)]
        names = Annotated[list[one], BeforeValidator(_split), Query(min_length=1, max_length=100)]
        parameters.append(_parameter("fields", names))
    for name, each in listing.filters.items():
        # No `| None` in the document: a query parameter that is not given is missing, never null.
        parameters.append(_parameter(name, Annotated[_filter_type(each), Query()], None))
    return parameters


def _parameter(name: str, annotation: Any, default: Any = Parameter.empty) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _split(names: list[str]) -> list[str]:
    """``fields=id,name`` and ``fields=id&fields=name`` are the same."""
    return [name for each in names for name in each.split(",")]


def _filter_type(chosen: Filter) -> Any:
    """The type of a filter's parameter: it allows only what the column's type can compare."""
    if chosen.type is not None:
        return chosen.type
    column = chosen.column.type
    if isinstance(column, Enum):  # a String too, to SQLAlchemy
        return column.enum_class or Literal[tuple(column.enums)]
    if isinstance(column, Numeric) and column.python_type is Decimal:
        digits = Field(max_digits=column.precision or MAX_DIGITS, decimal_places=column.scale)
        return Annotated[Decimal, digits]
    if isinstance(column, String):
        return Annotated[str, STORABLE, Field(max_length=column.length or MAX_TEXT)]
    for kind, bits in BITS.items():
        if isinstance(column, kind):
            return Annotated[int, Field(ge=-(2 ** (bits - 1)), lt=2 ** (bits - 1))]
    if column.python_type is object:  # SQLAlchemy does not say, as for INET: any text would do
        raise ValueError(f"A filter of a column of the type {column!r} needs a `type`.")
    return _python_type(column)


def _python_type(column: TypeEngine[Any]) -> Any:
    if isinstance(column, DateTime):
        return MOMENT if column.timezone else Annotated[NaiveDatetime, BeforeValidator(_rfc3339)]
    if isinstance(column, Date):
        return Annotated[date, BeforeValidator(_rfc3339_date)]
    if isinstance(column, Time):
        return Annotated[time, AfterValidator(_with_zone if column.timezone else _without_zone)]
    if isinstance(column, Float) and (column.precision or REAL_BITS + 1) <= REAL_BITS:
        return Annotated[float, Field(ge=-MAX_REAL, le=MAX_REAL)]
    return column.python_type


def _rfc3339(value: Any) -> Any:
    """Refuse other texts that Pydantic reads as a time, such as ``0.5``: seconds since 1970."""
    if isinstance(value, str) and not RFC_3339.fullmatch(value):
        raise ValueError("must be a time as in RFC 3339, such as 2026-01-31T09:30:00Z")
    return value


def _rfc3339_date(value: Any) -> Any:
    if isinstance(value, str) and not RFC_3339_DATE.fullmatch(value):
        raise ValueError("must be a date as in RFC 3339, such as 2026-01-31")
    return value


def _with_zone(value: time) -> time:
    offset = value.utcoffset()
    if offset is None or abs(offset) >= MAX_OFFSET:
        raise ValueError("must be a time with an offset of less than 16 hours, such as 09:30:00Z")
    return value


def _without_zone(value: time) -> time:
    if value.tzinfo:
        raise ValueError("must be a time without an offset, such as 09:30:00")
    return value


def _in_utc(value: datetime) -> datetime:
    """The time in UTC; for the first and last hours of the calendar, the nearest one."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
        return first if value.year == 1 else last


MOMENT = Annotated[AwareDatetime, BeforeValidator(_rfc3339), AfterValidator(_in_utc)]
