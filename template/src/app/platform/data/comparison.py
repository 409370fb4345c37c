"""The differences between models and database; also of enum types, CHECKs and primary keys.

Alembic alone compares none of these three: importing this module registers the comparisons.
"""

from typing import Any

import alembic_postgresql_enum as alembic_postgresql_enum
from alembic.autogenerate import comparators, compare_metadata, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.migration import MigrationContext
from alembic.operations.ops import (
    CreateCheckConstraintOp,
    CreatePrimaryKeyOp,
    DropConstraintOp,
    UpgradeOps,
)
from alembic.util import DispatchPriority, PriorityDispatchResult
from sqlalchemy import CheckConstraint, Connection, inspect, text
from sqlalchemy.schema import conv

from app.platform.data.database import Base

OPTIONS = {"compare_server_default": True}
_SCRATCH = "comparison_of_models"
_CHECKS = text("""
    SELECT relname, conname, pg_get_expr(conbin, conrelid)
    FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
    WHERE contype = 'c' AND relnamespace = current_schema()::regnamespace
""")

Checks = dict[tuple[str, str], str]  # expressions, by the names of table and constraint
PrimaryKeys = dict[str, tuple[str, list[str]]]  # their names and columns, by table


def differences(connection: Connection) -> list[Any]:
    """The changes that a migration would make, as the tuples of Alembic's ``compare_metadata``."""
    context = MigrationContext.configure(connection, opts=OPTIONS)
    result: list[Any] = compare_metadata(context, Base.metadata)
    return result


# After the tables, and before alembic_postgresql_enum, which changes the types in the models.
@comparators.dispatch_for("schema", qualifier="postgresql", priority=DispatchPriority.LAST)
def _compare_constraints(
    context: AutogenContext, upgrade: UpgradeOps, _schemas: object
) -> PriorityDispatchResult:
    assert context.connection
    both = {*inspect(context.connection).get_table_names()} & {*Base.metadata.tables}
    stored = _checks(context.connection)
    stored_keys = _primary_keys(context.connection)
    declared, declared_keys = _declared(context.connection)
    differing = {name for name, _ in stored.items() ^ declared.items() if name[0] in both}
    drops: list[DropConstraintOp] = []
    for table, name in sorted(differing):
        if expression := stored.get((table, name)):
            before = CreateCheckConstraintOp(conv(name), table, text(expression))
            drops.append(DropConstraintOp(conv(name), table, type_="check", _reverse=before))
        if (table, name) in declared:
            # As the model has it: what Postgres prints is not always printed the same way again.
            condition = _models_check(context.connection, table, name).sqltext
            upgrade.ops.append(CreateCheckConstraintOp(conv(name), table, condition))
    for table in sorted(both):
        (old, old_columns), (new, columns) = stored_keys[table], declared_keys[table]
        if columns != old_columns:
            if old_columns:
                key = CreatePrimaryKeyOp(conv(old), table, old_columns)
                drops.append(DropConstraintOp(conv(old), table, type_="primary", _reverse=key))
            if columns:
                upgrade.ops.append(CreatePrimaryKeyOp(conv(new), table, columns))
    upgrade.ops[:0] = drops  # before the columns that they mention
    return PriorityDispatchResult.CONTINUE


def _models_check(connection: Connection, table: str, name: str) -> CheckConstraint:
    format_constraint = connection.dialect.identifier_preparer.format_constraint
    return next(
        check
        for check in Base.metadata.tables[table].constraints
        if isinstance(check, CheckConstraint)
        and (format_constraint(check) or "").strip('"') == name
    )


def _checks(connection: Connection) -> Checks:
    return {(table, name): check for table, name, check in connection.execute(_CHECKS)}


def _primary_keys(connection: Connection, schema: str | None = None) -> PrimaryKeys:
    found = inspect(connection).get_multi_pk_constraint(schema)
    return {
        table: (key["name"] or "", key["constrained_columns"])
        for (_, table), key in found.items()
        if key
    }


def _declared(connection: Connection) -> tuple[Checks, PrimaryKeys]:
    """The constraints of the models, as Postgres has them: in tables that exist for a moment."""
    with connection.begin_nested() as savepoint:
        connection.execute(text(f"CREATE SCHEMA {_SCRATCH}"))
        connection.execute(text(f"SET LOCAL search_path = {_SCRATCH}, public"))
        Base.metadata.create_all(connection, checkfirst=False)
        declared = _checks(connection), _primary_keys(connection, _SCRATCH)
        savepoint.rollback()
    return declared


@renderers.dispatch_for(CreatePrimaryKeyOp, replace=True)  # Alembic's is not implemented
def _render_primary_key(_context: AutogenContext, key: CreatePrimaryKeyOp) -> str:
    name = str(key.constraint_name)
    return f"op.create_primary_key(op.f({name!r}), {key.table_name!r}, {[*key.columns]!r})"
