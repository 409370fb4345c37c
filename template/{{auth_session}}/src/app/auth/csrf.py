"""Keeps other sites' pages from acting as who is signed in: browsers send cookies by themselves.

A request that changes something, and shows who it is by the cookie, must come from this site or one
of ``CORS_ORIGINS``, which the browser says, and carry a token that only those can have read. It is
derived from the session, so it ends with it and fits no other.
https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html
"""

import base64
import hashlib
import hmac
from uuid import UUID

from starlette.requests import HTTPConnection

from app.platform.base import signing
from app.platform.base.errors import Forbidden
from app.platform.http import audit
from app.settings import Settings

HEADER = "X-CSRF-Token"
SAFE = ("GET", "HEAD", "OPTIONS")  # change nothing


class Csrf:
    """Makes the tokens, and refuses requests that other sites' pages send."""

    def __init__(self, settings: Settings) -> None:
        self._key = signing.derive_key(settings, "csrf token")
        self._partners = settings.cors_origins if settings.cors_allow_credentials else []

    def token(self, session_id: UUID) -> str:
        digest = hmac.digest(self._key, session_id.bytes, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def check(self, connection: HTTPConnection, session_id: UUID) -> None:
        """Raise ``Forbidden`` if the request may be another site's doing.

        A websocket can carry no header of ours, so where it comes from has to do.
        """
        if connection.scope.get("method") in SAFE:
            return
        self.refuse_other_sites(connection)
        given = connection.headers.get(HEADER, "")
        expected = self.token(session_id)
        if connection.scope["type"] == "http" and not _equal(given, expected):
            audit.refused(connection, "csrf", "token")
            raise Forbidden(f"Send {HEADER}: GET /api/v1/auth/csrf says which.")

    def refuse_other_sites(self, connection: HTTPConnection) -> None:
        """Raise ``Forbidden`` if the browser says that another site's page sends this."""
        if not self._is_ours(connection):
            audit.refused(connection, "csrf", "site")
            raise Forbidden("Pages of other sites may not do this.")

    def _is_ours(self, connection: HTTPConnection) -> bool:
        origin = connection.headers.get("origin")
        if origin in self._partners:
            return True
        if site := connection.headers.get("sec-fetch-site"):
            return site in ("same-origin", "none")
        # Older browsers say less; what is no browser says nothing, and has no cookie by accident.
        return origin is None or origin.partition("://")[2] == connection.headers.get("host")


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
