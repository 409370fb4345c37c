"""Lazy loads are refused: reading an attribute never queries the database.

Otherwise one fails in async code with ``MissingGreenlet``, which does not name the relationship,
and succeeds inside ``run_sync``, once for each object. SQLAlchemy's ``lazy="raise"`` would have to
be repeated at each relationship, and does not name the remedy.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import DeclarativeBase, InstanceState, Mapper
from sqlalchemy.orm.base import PassiveFlag


class LazyLoad(RuntimeError):
    """A relationship was read that had not been loaded."""

    def __init__(self, owner: str, relationship: str) -> None:
        name = f"{owner}.{relationship}"
        super().__init__(
            f"{name} has not been loaded, and reading it does not query the database: add"
            f" `.options(selectinload({name}))` to the statement that loads the {owner}, or call"
            f' `await session.refresh(instance, ["{relationship}"])` first.'
        )


def refuse_lazy_loads(base: type[DeclarativeBase]) -> None:
    """Make every relationship of the models raise ``LazyLoad`` where it would load itself."""

    @event.listens_for(Mapper, "after_configured")
    def after_configured() -> None:
        for mapper in base.registry.mappers:
            for relationship in mapper.relationships:
                attribute: Any = getattr(mapper.class_, relationship.key).impl
                if attribute.callable_ and not isinstance(attribute.callable_, _Refusal):
                    attribute.callable_ = _Refusal(attribute.callable_, relationship.key)


class _Refusal:
    """The loader of a relationship, for all purposes but reading: ``refresh``, flush, cascades."""

    def __init__(self, load: Callable[..., Any], relationship: str) -> None:
        self._load = load
        self._relationship = relationship

    def __call__(self, state: InstanceState[Any], passive: PassiveFlag, *args: Any) -> Any:
        reads = passive & PassiveFlag.SQL_OK and not passive & PassiveFlag.NO_RAISE
        if reads and state.key:  # an object without a key is new, and has nothing to load
            raise LazyLoad(state.class_.__name__, self._relationship)
        return self._load(state, passive, *args)
