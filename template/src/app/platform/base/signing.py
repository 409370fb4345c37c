"""Keys and signatures, all from the one ``SECRET_KEY``."""

import base64
import binascii
import hashlib
import hmac

from app.platform.settings import PlatformSettings

SIGNATURE = 16  # bytes of HMAC-SHA256 that are kept: 128 bits can't be guessed


def derive_key(settings: PlatformSettings, purpose: str) -> bytes:
    """Return 32 bytes for one purpose; what is signed for one is never valid for another."""
    secret = settings.secret_key.get_secret_value().encode()
    return hmac.digest(secret, purpose.encode(), hashlib.sha256)


def seal(key: bytes, payload: bytes) -> str:
    """Return ``payload`` with a signature, safe in a URL. It is signed, not encrypted."""
    signature = hmac.digest(key, payload, hashlib.sha256)[:SIGNATURE]
    return base64.urlsafe_b64encode(signature + payload).rstrip(b"=").decode()


def unseal(key: bytes, sealed: str) -> bytes:
    """Return the payload of what ``seal`` made; raise ``ValueError`` for anything else."""
    try:
        raw = base64.urlsafe_b64decode(sealed.encode("ascii") + b"=" * (-len(sealed) % 4))
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("not sealed") from None
    signature, payload = raw[:SIGNATURE], raw[SIGNATURE:]
    expected = hmac.digest(key, payload, hashlib.sha256)[:SIGNATURE]
    if not hmac.compare_digest(signature, expected):
        raise ValueError("the signature is wrong")
    return payload
