"""Session tokens: the session's id and a secret of 256 random bits."""

import base64
import binascii
from uuid import UUID

from app.platform.auth.sessions import SECRET_BYTES

LENGTH = 64  # characters: 48 bytes in base64, without unused bits, so each token has one form


def encode(session_id: UUID, secret: bytes) -> str:
    return base64.urlsafe_b64encode(session_id.bytes + secret).decode()


def decode(token: str) -> tuple[UUID, bytes]:
    """The session's id and the secret; raises ``ValueError`` if the text is not a token."""
    if len(token) != LENGTH:
        raise ValueError("not a token")
    try:
        raw = base64.b64decode(token.encode("ascii"), b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("not a token") from None
    if len(raw) != 16 + SECRET_BYTES:
        raise ValueError("not a token")
    return UUID(bytes=raw[:16]), raw[16:]
