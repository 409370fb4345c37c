"""The most common passwords of known breaches, which are refused.

``common_passwords.txt`` has the first ten hexadecimal digits of the SHA-256 hash of each, in lower
case: many are words that nobody wants in a repository. They are the 5,000 most frequent, and all
with twelve characters or more, of the list that Royce Williams compiled from breaches, as Django
distributes it (BSD-3-Clause). Add your own with ``fingerprint``.
"""

import hashlib
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

from app.platform import about

MIN_JUMPS, MIN_DISTINCT = 4, 5  # between characters, and of them


def fingerprint(password: str) -> str:
    """The form in which the list has a password."""
    return hashlib.sha256(password.lower().encode()).hexdigest()[:10]


@cache
def _fingerprints() -> frozenset[str]:
    file = Path(__file__).with_suffix(".txt")
    return frozenset(file.read_text(encoding="ascii").split())


def _repeated(text: str) -> str:
    """The shortest text that `text` repeats, perhaps with digits and punctuation between.

    Not by an expression: whoever registers chooses the text, and it would backtrack.
    """
    for length in range(1, len(text) // 2 + 1):
        unit = text[:length]
        if text.endswith(unit) and not re.search("[a-z]", text.replace(unit, "")):
            return unit
    return ""


def is_common(password: str) -> bool:
    """Whether a password is a common one, alone, repeated, or with digits and punctuation around.

    ``Password-2026!``, ``qwertyqwerty``; also the service's name, and runs like ``abcdefghijkl``.
    """
    text = password.lower()
    jumps = sum(abs(ord(one) - ord(next_one)) > 1 for one, next_one in pairwise(text))
    if jumps < MIN_JUMPS or len(set(text)) < MIN_DISTINCT:
        return True
    inner = re.sub(r"^[^a-z]+|[^a-z]+$", "", text)
    forms = {text, inner, re.sub(r"[^a-z]+$", "", text)}
    forms |= {unit for form in forms if (unit := _repeated(form))}
    names = {about.NAME.lower(), about.NAME.lower().replace("-", "")}
    return any(form in names or fingerprint(form) in _fingerprints() for form in forms if form)
