"""Export and deletion of the data of an account's owner, that of features included.

A feature takes part with a module ``personal_data``, such as ``app.orders.personal_data``, that has

    async def export_data(session: ReadSession, user_id: str) -> Any: ...
    async def delete_data(session: AsyncSession, user_id: str) -> None: ...

So do tables of the platform, with ``app.platform.data.personal_<name>``.
"""

import importlib
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

import app
from app.platform.auth import grants
from app.platform.auth.account_mails import AccountMails
from app.platform.auth.audit_log import AuditEvent
from app.platform.auth.models import Account, LoginSession
from app.platform.auth.sessions import is_active
from app.platform.data import mail
from app.platform.data.database import ReadSession


class PersonalData(Protocol):
    """The interface of a feature's module ``personal_data``."""

    async def export_data(self, session: ReadSession, user_id: str) -> Any:
        """The feature's data of a user, as values that JSON can hold."""

    async def delete_data(self, session: AsyncSession, user_id: str) -> None:
        """Delete what the feature has of a user, in the transaction of ``session``."""


@cache
def features() -> dict[str, PersonalData]:
    """The features that have personal data, by name."""
    found: dict[str, Any] = {}
    # By its file: pkgutil lists no folder without `__init__.py`, whose data would stay behind.
    for path in sorted(Path(app.__path__[0]).glob("*/personal_data.py")):
        name = path.parent.name
        found[name] = importlib.import_module(f"{app.__name__}.{name}.{path.stem}")
    for path in sorted(Path(app.__path__[0]).glob("platform/data/personal_*.py")):
        name = path.stem.removeprefix("personal_")
        found[name] = importlib.import_module(f"{app.__name__}.platform.data.{path.stem}")
    return found


async def list_sessions(reads: ReadSession, account_id: UUID) -> list[Any]:
    """The active sessions of an account, newest first."""
    columns = (
        LoginSession.id,
        LoginSession.created_at,
        LoginSession.expires_at,
        LoginSession.user_agent,
    )
    statement = select(*columns).where(LoginSession.account_id == account_id, is_active())
    return list(await reads.all(statement.order_by(LoginSession.created_at.desc())))


async def list_events(reads: ReadSession, user_id: str) -> list[Any]:
    """Time and action of each event of the audit log about a user, newest first."""
    statement = select(AuditEvent.at, AuditEvent.action).where(AuditEvent.subject == user_id)
    return list(await reads.all(statement.order_by(AuditEvent.id.desc())))


async def export_features(reads: ReadSession, user_id: str) -> dict[str, Any]:
    """The data of a user, by feature."""
    return {name: await each.export_data(reads, user_id) for name, each in features().items()}


async def delete_account(db: AsyncSession, mails: AccountMails, account: Account) -> None:
    """Delete an account with everything that features have of its owner, who gets a last mail.

    Raises ``Conflict`` for the last administrator.
    """
    for feature in features().values():
        await feature.delete_data(db, str(account.id))
    async with grants.administrator_kept(db):
        await db.execute(delete(Account).where(Account.id == account.id))
    await db.execute(delete(grants.RoleGrant).where(grants.RoleGrant.user_id == str(account.id)))
    waiting = delete(mail.OutgoingMail).where(mail.OutgoingMail.recipient == account.email)
    await db.execute(waiting)
    await mails.send_notice(db, "account_deleted", account.email)
