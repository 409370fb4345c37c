"""Redaction of secrets and personal values, by field name and by pattern, in logs and spans."""

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"
SECRET_NAME = re.compile(
    r"passw|secret|token|authorization|cookie|api[-_]?key|credential|private[-_]?key|session[-_]?id"
    r"|e[-_]?mail|phone|dsn|database_(replica_)?url|redis_url",
    re.IGNORECASE,
)
# In free text, such as an exception's message: credentials in URLs, bearer tokens, JSON Web Tokens,
# `password=...`, e-mail addresses. Attackers control such text, paths above all, so the expression
# must not backtrack: hence the possessive quantifiers.
SECRET_TEXT = re.compile(
    r"(?<=://)[^\s/@]++(?=@)"
    r"|(?<=bearer )\S+"
    r"|(?<![\w-])(?>(?:[\w-]*?-)?eyJ)[\w-]++\.[\w-]++\.[\w-]*"
    r"|(?<=password=)\S+|(?<=token=)[^\s&]+|(?<=secret=)[^\s&]+|(?<=api_key=)[^\s&]+"
    r"|(?<![\w.+-])[\w.+-]++@[\w-]++(?:\.[\w-]++)++",
    re.IGNORECASE,
)


def redact_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """``fields`` without secrets and personal values, at any depth."""
    return {name: _redact_value(name, value) for name, value in fields.items()}


def _redact_value(name: str, value: Any) -> Any:
    if SECRET_NAME.search(name) and value not in (None, ""):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {key: _redact_value(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [_redact_value("", inner) for inner in value]
    return value


def redact_path(path: str) -> str:
    """``path`` without e-mail addresses and tokens; most paths have neither."""
    return redact_text(path) if "@" in path or "eyJ" in path else path


def redact_text(text: str) -> str:
    """``text`` without what looks like a secret or an e-mail address."""
    return SECRET_TEXT.sub(REDACTED, text)
