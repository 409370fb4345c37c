"""Changes of users by administrators, each effective at the user's next request."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Text, cast, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.auth import audit_log, grants, sessions
from app.platform.auth.account_mails import AccountMails
from app.platform.auth.accounts import normalise
from app.platform.auth.audit_log import Actor
from app.platform.auth.grants import RoleGrant, Roles
from app.platform.auth.models import Account, LoginSession
from app.platform.base.errors import Conflict, NotFound
from app.platform.data.listing import Filter, Listing, ListQuery


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user with their roles, scopes and number of active sessions."""

    id: UUID
    email: str
    roles: list[str]
    scopes: list[str]
    disabled_at: datetime | None
    created_at: datetime
    sessions: int


ACTIVE = select(func.count()).where(LoginSession.account_id == Account.id, sessions.is_active())
USERS = select(
    Account.id,
    Account.email,
    grants.of_account(),
    Account.scopes,
    Account.disabled_at,
    Account.created_at,
    ACTIVE.scalar_subquery().label("sessions"),
)


def _has_role(role: Any, name: Any) -> ColumnElement[bool]:
    return select(role).where(RoleGrant.user_id == cast(Account.id, Text), role == name).exists()


def _has_address(email: Any, given: Any) -> ColumnElement[bool]:
    return func.lower(email) == func.lower(func.normalize(func.trim(given)))


LISTING = Listing(
    USERS,
    key=Account.id,
    sorts={"created_at": Account.created_at},
    default="-created_at",
    filters={
        "email": Filter(Account.email, _has_address),
        "role": Filter(RoleGrant.role, _has_role),
        "disabled": Filter(Account.is_disabled),
    },
)


async def create(db: AsyncSession, actor: Actor, email: str, password_hash: str) -> UUID:
    """Create a user; raises ``Conflict`` if the address has an account."""
    values = {"id": uuid4(), "email": email, "password_hash": password_hash}
    statement = insert(Account).values(values).on_conflict_do_nothing().returning(Account.id)
    user_id = (await db.execute(statement)).scalar_one_or_none()
    if user_id is None:
        raise Conflict("An account with this e-mail address already exists.")
    await audit_log.record(db, actor, "user_create", str(user_id))
    return user_id


async def find(db: AsyncSession, email_or_id: str) -> UUID:
    """The id of a user; raises ``NotFound``."""
    statement = select(Account.id).where(func.lower(Account.email) == normalise(email_or_id))
    if "@" not in email_or_id:
        try:
            statement = select(Account.id).where(Account.id == UUID(email_or_id))
        except ValueError:
            raise NotFound(f"{email_or_id} is neither an e-mail address nor an id.") from None
    user_id = (await db.execute(statement)).scalar_one_or_none()
    if user_id is None:
        raise NotFound(f"There is no user {email_or_id}; see `app users list`.")
    return user_id


async def get(db: AsyncSession, user_id: UUID) -> UserRow:
    """A user; raises ``NotFound``."""
    row = (await db.execute(USERS.where(Account.id == user_id))).one_or_none()
    if row is None:
        raise NotFound("There is no such user.")
    return UserRow(*row)


async def list_users(db: AsyncSession, limit: int, role: str | None = None) -> Sequence[UserRow]:
    """Up to ``limit`` users, newest first: all, or those with a role."""
    query = ListQuery(limit, filters={"role": role} if role else {})
    rows = await db.execute(LISTING.select(query), LISTING.values(query))
    return [UserRow(*row) for row in rows.all()[:limit]]


async def grant(db: AsyncSession, actor: Actor, user_id: UUID, role: str, roles: Roles) -> None:
    """Give a user one of the service's ``roles``; raises ``NotFound`` for another."""
    if role not in roles:
        raise NotFound(f"There is no role {role}; the roles are {', '.join(sorted(roles))}.")
    statement = insert(RoleGrant).values(user_id=str(user_id), role=role).on_conflict_do_nothing()
    if (await db.execute(statement.returning(RoleGrant.role))).first():
        await audit_log.record(db, actor, "role_grant", str(user_id), role=role)


async def revoke(db: AsyncSession, actor: Actor, user_id: UUID, role: str) -> None:
    """Take a role from a user; raises ``Conflict`` if no administrator would be left."""
    statement = delete(RoleGrant).where(RoleGrant.user_id == str(user_id), RoleGrant.role == role)
    async with grants.administrator_kept(db):
        if not (await db.execute(statement.returning(RoleGrant.role))).first():
            raise NotFound(f"This user does not have the role {role}.")
    await audit_log.record(db, actor, "role_revoke", str(user_id), role=role)


async def disable(db: AsyncSession, actor: Actor, user_id: UUID) -> None:
    """End a user's sessions, and refuse their logins; raises ``Conflict`` as ``revoke`` does."""
    statement = update(Account).where(Account.id == user_id, Account.disabled_at.is_(None))
    async with grants.administrator_kept(db):
        changed = await db.execute(statement.values(disabled_at=func.now()).returning(Account.id))
    await sessions.revoke_all(db, user_id)
    if changed.first():
        await audit_log.record(db, actor, "user_disable", str(user_id))


async def enable(db: AsyncSession, actor: Actor, user_id: UUID) -> None:
    """Let a disabled user log in again."""
    statement = update(Account).where(Account.id == user_id, Account.disabled_at.is_not(None))
    if (await db.execute(statement.values(disabled_at=None).returning(Account.id))).first():
        await audit_log.record(db, actor, "user_enable", str(user_id))


async def end_sessions(db: AsyncSession, actor: Actor, user_id: UUID) -> None:
    """End all sessions of a user."""
    await sessions.revoke_all(db, user_id)
    await audit_log.record(db, actor, "user_end_sessions", str(user_id))


async def reset_password(
    db: AsyncSession, actor: Actor, user_id: UUID, mails: AccountMails
) -> None:
    """End all sessions of a user, and send a link to choose a new password."""
    user = await get(db, user_id)
    if user.disabled_at:
        raise Conflict("This user is disabled: enable them first.")
    await sessions.revoke_all(db, user_id)
    kind: Any = "reset_password"
    await mails.send_link(db, kind, kind, user_id, user.email, at_once=False)
    await audit_log.record(db, actor, "user_reset_password", str(user_id))
