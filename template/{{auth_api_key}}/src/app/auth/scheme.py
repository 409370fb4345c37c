"""How callers show who they are: a key that lives, in the header ``Authorization``."""

import hmac
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import bindparam, or_, select, update
from starlette.requests import HTTPConnection

from app.auth import key_text
from app.auth.identity import InvalidCredentials, User
from app.auth.keys import is_active
from app.auth.models import ApiKey
from app.platform.data.database import Database, ReadSession

MISSING_DETAIL = "Send an API key: Authorization: Bearer key_..."
NOTED_EVERY = timedelta(minutes=1)  # a key's use is written down no more often

_bearer = HTTPBearer(bearerFormat="API key", scheme_name="bearer", auto_error=False)
Credential = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]

KEY = select(ApiKey.owner, ApiKey.scopes, ApiKey.hash, ApiKey.last_used_at).where(
    ApiKey.id == bindparam("id"), is_active()
)


async def authenticate(connection: HTTPConnection, shown: HTTPAuthorizationCredentials) -> User:
    """Return whose key it is; raise ``InvalidCredentials`` unless it is one that lives."""
    key = shown.credentials
    try:
        key_id = key_text.id_of(key)
    except ValueError:
        raise InvalidCredentials("invalid", "This is no API key.") from None
    reader: ReadSession = connection.app.state.read_session
    row = await reader.first(KEY, id=key_id)
    if row is None or not hmac.compare_digest(row.hash, key_text.fingerprint(key)):
        raise InvalidCredentials("ended", "This API key is not, or no longer, good.")
    await _note_use(connection.app.state.db, key_id, row.last_used_at)
    return User(row.owner, frozenset(row.scopes), key_id)


async def _note_use(database: Database, key_id: str, last: datetime | None) -> None:
    now = datetime.now(UTC)
    if last and now - last < NOTED_EVERY:
        return
    unnoted = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at <= now - NOTED_EVERY)
    async with database.transaction() as db:
        # The condition again, for those who come at the same moment: one of them writes.
        statement = update(ApiKey).where(ApiKey.id == key_id, unnoted).values(last_used_at=now)
        await db.execute(statement)
