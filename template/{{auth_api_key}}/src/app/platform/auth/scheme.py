"""Authentication by an active API key in the ``Authorization`` header."""

import hmac
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import bindparam, or_, select, update
from starlette.requests import HTTPConnection

from app.platform.auth import key_format
from app.platform.auth.identity import InvalidCredentials, User
from app.platform.auth.keys import is_active
from app.platform.auth.models import ApiKey
from app.platform.data.database import Database, ReadSession

MISSING_DETAIL = "Send an API key: Authorization: Bearer key_..."
USE_INTERVAL = timedelta(minutes=1)  # between two updates of ``last_used_at``

_bearer = HTTPBearer(bearerFormat="API key", scheme_name="bearer", auto_error=False)
Credential = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]

KEY = select(ApiKey.owner, ApiKey.scopes, ApiKey.hash, ApiKey.last_used_at).where(
    ApiKey.id == bindparam("id"), is_active()
)


def token_of(credentials: HTTPAuthorizationCredentials) -> str:
    """The secret text of a credential."""
    return credentials.credentials


async def authenticate(
    connection: HTTPConnection, credentials: HTTPAuthorizationCredentials
) -> User:
    """The owner of a key; raises ``InvalidCredentials`` unless the key is active."""
    key = credentials.credentials
    try:
        key_id = key_format.parse_id(key)
    except ValueError:
        raise InvalidCredentials("invalid", "The API key is malformed.") from None
    reader: ReadSession = connection.app.state.read_session
    row = await reader.first(KEY, id=key_id)
    if row is None or not hmac.compare_digest(row.hash, key_format.hash_key(key)):
        raise InvalidCredentials("ended", "The API key is unknown, expired or revoked.")
    await _record_use(connection.app.state.db, key_id, row.last_used_at)
    return User(row.owner, frozenset(row.scopes), key_id)


async def _record_use(database: Database, key_id: str, last: datetime | None) -> None:
    now = datetime.now(UTC)
    if last and now - last < USE_INTERVAL:
        return
    is_due = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at <= now - USE_INTERVAL)
    # Of concurrent requests one writes, and none waits for the transaction of another.
    key = select(ApiKey.id).where(ApiKey.id == key_id, is_due)
    key = key.with_for_update(key_share=True, skip_locked=True)
    await database.execute(update(ApiKey).where(ApiKey.id.in_(key)).values(last_used_at=now))
