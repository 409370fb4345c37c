"""Byte ranges of requests (RFC 9110, section 14): one range; several are answered with all."""

import re
from http import HTTPStatus

from app.platform.base.errors import AppError

RANGE = re.compile(r"bytes=[ \t]*(\d{0,19})-(\d{0,19})[ \t]*", re.IGNORECASE)


class RangeNotSatisfiable(AppError):
    """The range is outside of the representation."""

    status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    code = "range_not_satisfiable"

    def __init__(self, size: int) -> None:
        headers = {"Content-Range": f"bytes */{size}"}
        super().__init__(f"The file has {size} bytes.", headers=headers)


def byte_range(given: str | None, size: int) -> tuple[int, int] | None:
    """The first byte and the one after the last, by a ``Range`` header; ``None``: all of them.

    A malformed header, and one with several ranges, is ignored, as the RFC allows. Raises
    ``RangeNotSatisfiable`` for a range without any byte of the file.
    """
    match = RANGE.fullmatch(given or "")
    if not match or match[0].endswith("=-"):
        return None
    first, last = match[1], match[2]
    if not first and not last:
        return None
    if not first:  # the last so many bytes
        length = int(last)
        if not length or not size:
            raise RangeNotSatisfiable(size)
        return max(0, size - length), size
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise RangeNotSatisfiable(size)
    return start, min(int(last) + 1, size) if last else size
