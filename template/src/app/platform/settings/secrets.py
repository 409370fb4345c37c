"""Guessable secrets: placeholders, common passwords, sequences, repeats and keyboard rows."""

import math
import re
from itertools import pairwise
from urllib.parse import unquote, urlsplit

PLACEHOLDER = re.compile(r"change.?me|placeholder|your[-_]|xxxxx|<[a-z _-]+>", re.IGNORECASE)
EXAMPLE = re.compile(
    r"secret|example|passw|insecure|letmein|hunter2|development|production", re.IGNORECASE
)
DEFAULT_PASSWORDS = (
    "admin",
    "app",
    "default",
    "guest",
    "postgres",
    "redis",
    "root",
    "test",
    "user",
)

MIN_KEY_LENGTH = 32
MIN_KEY_BITS = 48  # one in a million of the random keys with 32 hexadecimal digits is below
MIN_PASSWORD_LENGTH = 8
MIN_PASSWORD_UNPREDICTABLE = 4  # characters

ROWS = (
    *("01234567890", "abcdefghijklmnopqrstuvwxyz", "9abcdef0"),
    *("qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "yxcvbnm", "azertyuiop", "qsdfghjklm"),
    *("1qaz", "2wsx", "3edc", "4rfv", "5tgb", "6yhn", "7ujm", "8ik", "9ol", "0p"),
)
NEIGHBOURS = {pair for row in ROWS for a, b in pairwise(row) for pair in (a + b, b + a)}


def unpredictable(secret: str) -> int:
    """The number of characters of ``secret`` that do not follow from those before them.

    A character follows if it repeats the one before it, or the one before that, or is next to it in
    an alphabet or on a keyboard, or if the last three characters have occurred before.
    """
    text = secret.lower()
    return min(_unpredictable(text, 1), _unpredictable(text, 2))


def _unpredictable(text: str, step: int) -> int:
    return sum(
        not (
            (i >= step and (text[i] == text[i - step] or text[i - step] + text[i] in NEIGHBOURS))
            or (i >= 3 and text[i - 2 : i + 1] in text[:i])
        )
        for i in range(len(text))
    )


def key_weakness(key: str) -> str | None:
    """The weakness of a signing key, or ``None``."""
    if PLACEHOLDER.search(key) or EXAMPLE.search(key):
        return "is an example value"
    bits = unpredictable(key) * math.log2(max(2, len(set(key))))
    if len(key) < MIN_KEY_LENGTH or bits < MIN_KEY_BITS:
        return f"must be {MIN_KEY_LENGTH} random characters or more"
    return None


def secret_weakness(secret: str) -> str | None:
    """The weakness of a password, a URL that has one, or another secret; ``None`` for none."""
    if "://" not in secret:
        return _password_weakness(secret, ())
    try:
        url = urlsplit(secret)
        names = (url.username or "", url.hostname or "", url.path.strip("/"))
    except ValueError:  # no URL: for the setting's own validator to refuse
        return None
    reason = None if url.password is None else _password_weakness(unquote(url.password), names)
    return reason and f"has a password that {reason}"


def _password_weakness(password: str, names: tuple[str, ...]) -> str | None:
    if PLACEHOLDER.search(password):
        return "is an example value"
    word = password.lower().rstrip("0123456789!._-")
    if (
        len(password) < MIN_PASSWORD_LENGTH
        or unpredictable(password) < MIN_PASSWORD_UNPREDICTABLE
        or word in DEFAULT_PASSWORDS
        or word in (name.lower() for name in names)
        or (len(password) < MIN_KEY_LENGTH // 2 and EXAMPLE.search(password))
    ):
        return "is easy to guess"
    return None
