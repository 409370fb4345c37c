"""Keyset pagination: a page starts after the last row of the previous one, at constant cost.

The cursor is that row's key, signed against forgery and valid for one list only.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query, Request
from pydantic import BaseModel, Field, TypeAdapter
from pydantic_core import to_json

from app.platform.base.errors import BadRequest
from app.platform.base.signing import Keys, derive_keys, sign, verify

MAX_LIMIT = 100

T = TypeVar("T")
Key = TypeVar("Key", bound=tuple[Any, ...])


class Page(BaseModel, Generic[T]):
    """A page of items; ``next`` is the cursor of the next page, if there is one."""

    items: list[T]
    next: str | None = Field(None, description="Pass it as `cursor` to get the next page")


class Paging(Generic[Key]):
    """The requested page: up to ``limit`` rows after the key ``after``."""

    def __init__(self, limit: int, after: Key | None, keys: Keys) -> None:
        self.limit = limit
        self.after = after
        self._keys = keys

    def page(self, rows: Sequence[T], position: Callable[[T], Key]) -> Page[T]:
        """The page of ``rows``; query for ``limit + 1`` of them, to see if there is a next page."""
        items = list(rows[: self.limit])
        last = to_json(position(items[-1])) if len(rows) > self.limit else None
        return Page(items=items, next=sign(self._keys, last) if last else None)


def paging(name: str, position: type[Key]) -> Callable[..., Paging[Key]]:
    """A dependency for the list ``name``; its rows are ordered by ``position``, a tuple type."""
    adapter = TypeAdapter(position)

    async def dependency(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 20,
        cursor: Annotated[str | None, Query(max_length=512)] = None,
    ) -> Paging[Key]:
        keys = derive_keys(request.app.state.settings, f"cursor:{name}")
        if cursor is None:
            return Paging(limit, None, keys)
        try:
            return Paging(limit, adapter.validate_json(verify(keys, cursor)), keys)
        except ValueError:
            raise BadRequest("The cursor is not valid for this list.") from None

    return dependency  # type: ignore[return-value]
