"""Rate limits by client and address; clients that an account knows have limits of their own.

A client is known for at least 30 days after a login from it. The row of its session has a keyed
hash of the client and the address.
"""

import hashlib
import hmac

from fastapi import Request
from sqlalchemy import ColumnElement, func, select

from app.platform.auth.models import Account, LoginSession
from app.platform.base import signing
from app.platform.data.database import ReadSession
from app.platform.http import audit, rate_limit
from app.platform.http.gcra import RateLimiter
from app.platform.settings import PlatformSettings


def client_hashes(settings: PlatformSettings, client: str, email: str) -> list[bytes]:
    """A client's hashes for an account: by the current key, then by the fallbacks."""
    text = f"{client} {email}".encode()
    keys = signing.derive_keys(settings, "login client")
    return [hmac.digest(key, text, hashlib.sha256) for key in keys]


def is_known_client(hashes: list[bytes]) -> ColumnElement[bool]:
    """The condition that an account has a session of a client."""
    sessions = select(LoginSession.id).where(
        LoginSession.account_id == Account.id, LoginSession.client_hash.in_(hashes)
    )
    return sessions.exists()


async def check_mail(request: Request, email: str) -> None:
    """Count a mail that a client asks for; raise ``TooManyRequests`` beyond a limit.

    Strangers share one limit for an address. A client that its account knows has one of its own, so
    that they keep no owner from getting a mail. No header shows the limits of an address, and an
    address without an account has the same.
    """
    settings: PlatformSettings = request.app.state.settings
    client = await rate_limit.client_key(request)
    await rate_limit.check_rate_limit(request, "mail", settings.mail_limit_client, client)
    hashes = client_hashes(settings, client, email)
    reader: ReadSession = request.app.state.read_session
    known = await reader.first(
        select(Account.id).where(
            func.lower(Account.email) == func.lower(email), is_known_client(hashes)
        )
    )
    key = hashes[0].hex() if known else hashlib.sha256(email.encode()).hexdigest()
    limiter: RateLimiter = request.app.state.limiter
    result = await limiter.hit("mail-address", settings.mail_limit_address, key)
    if not result.allowed:
        audit.refused(request, "mail", "limited by address")
        raise rate_limit.too_many_requests(result)
