"""Roles of users. The service defines its roles, and hands them over: ``app.state.roles``."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from sqlalchemy import ARRAY, ColumnElement, DateTime, Label, Text, cast, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.auth.models import Account
from app.platform.base.errors import Conflict
from app.platform.data.database import Base

ADMIN = "admin"
Roles = Mapping[str, frozenset[str]]  # the scopes of each

# Serialises what could remove the last administrator; held until the end of the transaction.
LOCK = text("SELECT pg_advisory_xact_lock(hashtext('administrators'))")


class RoleGrant(Base):
    """A role of a user."""

    __tablename__ = "role_grants"

    user_id: Mapped[str] = mapped_column(Text, primary_key=True)
    role: Mapped[str] = mapped_column(Text, primary_key=True)
    granted_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


def of_account() -> Label[Sequence[str]]:
    """The roles of an account, as a column of the query that reads it."""
    roles = select(RoleGrant.role).where(RoleGrant.user_id == cast(Account.id, Text))
    return cast(func.array(roles.scalar_subquery()), ARRAY(Text)).label("roles")


def scopes_of(roles: Roles, names: Iterable[str]) -> frozenset[str]:
    """The scopes of the roles with these names; one that the service no longer has grants none."""
    return frozenset().union(*(roles.get(name, frozenset()) for name in names))


def has(role: str) -> ColumnElement[bool]:
    """The condition that an account has a role."""
    grants = select(RoleGrant.role).where(
        RoleGrant.user_id == cast(Account.id, Text), RoleGrant.role == role
    )
    return grants.exists()


@asynccontextmanager
async def administrator_kept(db: AsyncSession) -> AsyncIterator[None]:
    """Undo the block and raise ``Conflict`` if it leaves no administrator, whatever others do."""
    await db.execute(LOCK)
    enabled = select(func.count()).select_from(Account).where(Account.disabled_at.is_(None))
    administrators = enabled.where(has(ADMIN))
    before = (await db.execute(administrators)).scalar_one()
    async with db.begin_nested():
        yield
        if before and not (await db.execute(administrators)).scalar_one():
            raise Conflict("This is the last administrator: make another one first.")
