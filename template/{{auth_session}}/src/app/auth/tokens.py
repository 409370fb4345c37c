"""The secret of a session, as clients carry it: its id and 256 random bits."""

import base64
import binascii
from uuid import UUID

from app.auth.sessions import SECRET_BYTES

LENGTH = 64  # characters: 16 and 32 bytes in base64, which leaves no bit to play with


def write(session_id: UUID, secret: bytes) -> str:
    return base64.urlsafe_b64encode(session_id.bytes + secret).decode()


def read(token: str) -> tuple[UUID, bytes]:
    """Return the session's id and the secret; raise ``ValueError`` for what is no token."""
    if len(token) != LENGTH:
        raise ValueError("not a token")
    try:
        raw = base64.b64decode(token.encode("ascii"), b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("not a token") from None
    if len(raw) != 16 + SECRET_BYTES:
        raise ValueError("not a token")
    return UUID(bytes=raw[:16]), raw[16:]
