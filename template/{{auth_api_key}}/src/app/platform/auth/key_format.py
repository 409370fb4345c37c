"""The format of keys: ``key_0123456789abcdef_<52 letters and digits><8 digits of checksum>``.

The prefix identifies keys to people and secret scanners. The id is not secret and identifies the
row. The secret is 256 random bits. The checksum detects mistyped and invented keys without a query.
"""

import base64
import hashlib
import re
import secrets
import zlib

KEY = re.compile(r"([a-z][a-z0-9]{1,15}_([0-9a-f]{16})_[a-z2-7]{52})([0-9a-f]{8})")


def generate(prefix: str) -> tuple[str, str]:
    """The id of a new random key, and the key."""
    key_id = secrets.token_hex(8)
    secret = base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=").lower()
    return key_id, assemble(prefix, key_id, secret)


def assemble(prefix: str, key_id: str, secret: str) -> str:
    """The key of a prefix, an id and a secret in base 32."""
    body = f"{prefix}_{key_id}_{secret}"
    return body + _checksum(body)


def parse_id(key: str) -> str:
    """The id of a key; raises ``ValueError`` if the text is not a key."""
    match = KEY.fullmatch(key)
    if not match or match[3] != _checksum(match[1]):
        raise ValueError("not a key")
    return match[2]


def hash_key(key: str) -> bytes:
    """The stored hash of a key: 256 random bits need no slow hash function and no salt."""
    return hashlib.sha256(key.encode()).digest()


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
