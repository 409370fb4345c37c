"""Lazy loads are refused: reading an attribute never queries the database.

Otherwise one fails in async code with ``MissingGreenlet``, which does not name the attribute, and
succeeds inside ``run_sync``, once for each object. SQLAlchemy's ``lazy="raise"`` would have to be
repeated at each relationship, does not name the remedy, and ``raiseload`` does not cover columns
that have expired.
"""

from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import DeclarativeBase, InstanceState, Mapper
from sqlalchemy.orm.base import PassiveFlag


class LazyLoad(RuntimeError):
    """An attribute was read that had not been loaded or has expired.

    ``option``: what loads it with the object, ``selectinload`` or ``undefer``; ``None`` if the
    attributes have expired.
    """

    def __init__(self, owner: str, attributes: Collection[str], option: str | None) -> None:
        names = ", ".join(f"{owner}.{attribute}" for attribute in sorted(attributes))
        keys = ", ".join(f'"{attribute}"' for attribute in sorted(attributes))
        has, it = ("has", "it") if len(attributes) == 1 else ("have", "them")
        remedy = f"call `await session.refresh(instance, [{keys}])` first."
        if option:
            remedy = (
                f"add `.options({option}({names}))` to the statement that loads the {owner}, or"
                f" {remedy}"
            )
        super().__init__(
            f"{names} {has} {'not been loaded' if option else 'expired'}, and reading {it} does"
            f" not query the database: {remedy}"
        )


def refuse_lazy_loads(base: type[DeclarativeBase]) -> None:
    """Make every attribute of the models raise ``LazyLoad`` where it would load itself."""

    @event.listens_for(Mapper, "after_configured")
    def after_configured() -> None:
        for mapper in base.registry.mappers:
            for relationship in mapper.relationships:
                _refuse(mapper, relationship.key, "selectinload")
            for column in mapper.column_attrs:
                _refuse(mapper, column.key, "undefer")  # of columns that are always deferred
                _refuse_when_deferred(column)
            manager: Any = mapper.class_manager
            if not isinstance(manager.expired_attribute_loader, _ExpiredRefusal):
                manager.expired_attribute_loader = _ExpiredRefusal(manager.expired_attribute_loader)


def _refuse(mapper: Mapper[Any], key: str, option: str) -> None:
    attribute: Any = getattr(mapper.class_, key).impl
    if attribute.callable_ and not isinstance(attribute.callable_, _Refusal):
        attribute.callable_ = _Refusal(attribute.callable_, key, option)


def _refuse_when_deferred(column: Any) -> None:
    """Refuse the loads of a column that a statement has deferred."""
    install = column._deferred_column_loader
    if getattr(install, "refuses", False):
        return

    def install_refusal(state: InstanceState[Any], dict_: Any, row: Any) -> None:
        install(state, dict_, row)
        state.callables[column.key] = _Refusal(state.callables[column.key], column.key, "undefer")

    install_refusal.refuses = True  # type: ignore[attr-defined]
    column._deferred_column_loader = install_refusal


def _is_read(state: InstanceState[Any], passive: PassiveFlag) -> bool:
    """Whether an attribute is read, and not loaded for a cascade or a merge."""
    reads = passive & PassiveFlag.SQL_OK and not passive & PassiveFlag.NO_RAISE
    return bool(reads and state.key)  # an object without a key is new, and has nothing to load


def _is_column_read(state: InstanceState[Any], passive: PassiveFlag) -> bool:
    """Whether a column is read, and not loaded for a flush or for the history of a change."""
    flushing = state.session is not None and state.session._flushing
    return _is_read(state, passive) and bool(passive & PassiveFlag.INIT_OK) and not flushing


class _Refusal:
    """The loader of an attribute, for all purposes but reading: ``refresh``, flush, cascades."""

    def __init__(self, load: Callable[..., Any], attribute: str, option: str) -> None:
        self._load = load
        self._attribute = attribute
        self._option = option

    def __call__(self, state: InstanceState[Any], passive: PassiveFlag, *args: Any) -> Any:
        is_read = _is_column_read if self._option == "undefer" else _is_read
        if is_read(state, passive):
            raise LazyLoad(state.class_.__name__, [self._attribute], self._option)
        return self._load(state, passive, *args)


class _ExpiredRefusal:
    """The loader of expired columns of a class, for all purposes but reading."""

    def __init__(self, load: Callable[..., Any]) -> None:
        self._load = load

    def __call__(
        self, state: InstanceState[Any], attributes: set[str], passive: PassiveFlag
    ) -> None:
        if _is_column_read(state, passive):
            columns = attributes.intersection(state.mapper.column_attrs.keys())
            raise LazyLoad(state.class_.__name__, columns, None)
        self._load(state, attributes, passive)
