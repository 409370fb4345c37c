"""Strict JSON (RFC 8259, I-JSON): refuses bodies that Python's parser accepts and JSON does not.

Lone surrogates can be neither encoded nor stored, NaN and infinite numbers not answered. They would
pass where a schema does not look: in ``Any`` and in ``SecretStr``.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import NoReturn

from starlette.exceptions import HTTPException  # noqa: TID251 (the framework passes it on)
from starlette.types import Message, Receive

# Bodies without any of these need no second look: surrogate escapes (also those of valid pairs),
# constants that are not JSON, and numbers that may be larger than a float: by an exponent of three
# digits, or by 210 digits before one of two.
SUSPICIOUS = re.compile(r"\\u[dD][89a-fA-F]|NaN|Infinity|[eE]\+?\d{3}|(?<!\d)\d{210}")


class InvalidJson(HTTPException):
    """The body of a request is not strict JSON; ``reason`` completes the sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(400, f"The body is not valid JSON: {reason}.")


def strict(headers: Mapping[bytes, bytes], receive: Receive) -> Receive:
    """``receive`` of a request; for JSON, it raises 400 at the end of a body that is not strict."""
    if b"json" not in headers.get(b"content-type", b"").lower():
        return receive
    chunks: list[bytes] = []

    async def checked() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            chunks.append(message.get("body", b""))
            if not message.get("more_body", False):
                check(b"".join(chunks))
                chunks.clear()
        return message

    return checked


def check(body: bytes) -> None:
    """Raise 400 if ``body`` is not strict JSON; other syntax errors are left to the framework."""
    try:
        text = body.decode()
        if text.startswith("\ufeff") or "\x00" in text:  # the framework would detect UTF-16 or -32
            raise InvalidJson("it is not UTF-8 without a byte order mark")
        if SUSPICIOUS.search(text):
            document = json.loads(text, parse_constant=_refuse, parse_float=_finite)
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise InvalidJson("it is not UTF-8") from None
    except UnicodeEncodeError:
        raise InvalidJson("it has a lone surrogate") from None
    except (json.JSONDecodeError, RecursionError):
        return
    except ValueError as error:
        raise InvalidJson(str(error)) from None


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError("a number is out of range")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
