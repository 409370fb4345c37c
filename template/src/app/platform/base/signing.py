"""Derived keys and signatures, all from ``SECRET_KEY``."""

import base64
import binascii
import hashlib
import hmac

from app.platform.settings import PlatformSettings

SIGNATURE_BYTES = 16  # HMAC-SHA256, truncated to 128 bits


def derive_key(settings: PlatformSettings, purpose: str) -> bytes:
    """A 32-byte key for one purpose; a signature made with it is invalid for any other."""
    secret = settings.secret_key.get_secret_value().encode()
    return hmac.digest(secret, purpose.encode(), hashlib.sha256)


def sign(key: bytes, payload: bytes) -> str:
    """``payload`` with its signature, URL-safe; not encrypted."""
    signature = hmac.digest(key, payload, hashlib.sha256)[:SIGNATURE_BYTES]
    return base64.urlsafe_b64encode(signature + payload).rstrip(b"=").decode()


def verify(key: bytes, signed: str) -> bytes:
    """The payload of a text from ``sign``; raises ``ValueError`` if the signature is invalid."""
    try:
        raw = base64.urlsafe_b64decode(signed.encode("ascii") + b"=" * (-len(signed) % 4))
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("not signed") from None
    signature, payload = raw[:SIGNATURE_BYTES], raw[SIGNATURE_BYTES:]
    expected = hmac.digest(key, payload, hashlib.sha256)[:SIGNATURE_BYTES]
    if not hmac.compare_digest(signature, expected):
        raise ValueError("the signature is invalid")
    return payload
