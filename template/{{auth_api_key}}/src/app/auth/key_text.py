"""What a key looks like: ``key_0123456789abcdef_<52 letters and digits><8 of checksum>``.

The prefix says to people and to scanners what this is. The id finds the row, and may be shown. The
secret is 256 random bits. The checksum tells a mistyped or made-up key without asking the database.
"""

import base64
import hashlib
import re
import secrets
import zlib

KEY = re.compile(r"([a-z][a-z0-9]{1,15}_([0-9a-f]{16})_[a-z2-7]{52})([0-9a-f]{8})")


def new(prefix: str) -> tuple[str, str]:
    """Return the id of a new key, and the key."""
    key_id = secrets.token_hex(8)
    secret = base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=").lower()
    return key_id, write(prefix, key_id, secret)


def write(prefix: str, key_id: str, secret: str) -> str:
    body = f"{prefix}_{key_id}_{secret}"
    return body + _checksum(body)


def id_of(key: str) -> str:
    """Return the id of a key; raise ``ValueError`` for what is no key."""
    match = KEY.fullmatch(key)
    if not match or match[3] != _checksum(match[1]):
        raise ValueError("not a key")
    return match[2]


def fingerprint(key: str) -> bytes:
    """Return what is stored of a key. 256 random bits need no slow hash and no salt."""
    return hashlib.sha256(key.encode()).digest()


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
