"""Derived keys and signatures, all from ``SECRET_KEY`` and, to verify, its fallbacks."""

import base64
import binascii
import hashlib
import hmac

from app.platform.settings import PlatformSettings
from app.platform.settings.core import split_keys

Keys = tuple[bytes, ...]  # the first one signs, and all verify

SIGNATURE_BYTES = 16  # HMAC-SHA256, truncated to 128 bits


def derive_keys(settings: PlatformSettings, purpose: str) -> Keys:
    """The 32-byte keys for one purpose; a signature made with them is invalid for any other.

    The first one is derived from ``SECRET_KEY``, the others from ``SECRET_KEY_FALLBACKS``.
    """
    secrets = [settings.secret_key.get_secret_value(), *split_keys(settings.secret_key_fallbacks)]
    return tuple(hmac.digest(key.encode(), purpose.encode(), hashlib.sha256) for key in secrets)


def sign(keys: Keys, payload: bytes) -> str:
    """``payload`` with its signature by the first key, URL-safe; not encrypted."""
    signature = hmac.digest(keys[0], payload, hashlib.sha256)[:SIGNATURE_BYTES]
    return _encode(signature + payload)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def verify(keys: Keys, signed: str) -> bytes:
    """The payload of a text from ``sign``; raises ``ValueError`` if no key made the signature."""
    try:
        raw = base64.urlsafe_b64decode(signed.encode("ascii") + b"=" * (-len(signed) % 4))
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("not signed") from None
    if _encode(raw) != signed:  # the decoder skips characters that are not of the alphabet
        raise ValueError("not signed")
    signature, payload = raw[:SIGNATURE_BYTES], raw[SIGNATURE_BYTES:]
    for key in keys:
        expected = hmac.digest(key, payload, hashlib.sha256)[:SIGNATURE_BYTES]
        if hmac.compare_digest(signature, expected):
            return payload
    raise ValueError("the signature is invalid")
