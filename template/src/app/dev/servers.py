"""Real Postgres and real Redis (Valkey) without Docker, for the tests and for `app dev`.

They come from wheels, listen on 127.0.0.1 only, and are gone when the process that asked for them
is, whichever way it ended. Without `data` they are empty, fast and forgotten; with it, their state
is kept there between runs.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.dev.launch import ServerError, running
from app.dev.plan import Kind
from app.dev.postgres import POSTGRES
from app.dev.valkey import VALKEY

__all__ = ["ServerError", "postgres", "redis", "services"]


@contextmanager
def postgres(data: Path | None = None) -> Iterator[str]:
    """Run Postgres; yield the URL of its database. Raises `ServerError`."""
    with running([POSTGRES], data) as urls:
        yield urls[POSTGRES.variable]


@contextmanager
def redis(data: Path | None = None) -> Iterator[str]:
    """Run Valkey; yield its URL. Raises `ServerError`."""
    with running([VALKEY], data) as urls:
        yield urls[VALKEY.variable]


@contextmanager
def services(data: Path | None = None) -> Iterator[dict[str, str]]:
    """Yield `DATABASE_URL` and `REDIS_URL`: those of the environment, or of servers run here.

    Raises `ServerError`.
    """
    given = {kind.variable: url for kind in (POSTGRES, VALKEY) if (url := _given(kind))}
    missing = [kind for kind in (POSTGRES, VALKEY) if kind.variable not in given]
    with running(missing, data) as urls:
        yield {**given, **urls}


def _given(kind: Kind) -> str | None:
    """Return the URL as the settings would read it: the variable is before the file."""
    if url := os.environ.get(kind.variable):
        return url
    if not (path := os.environ.get(f"{kind.variable}_FILE")):
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ServerError(f"{kind.variable}_FILE: {path} can't be read: {error.strerror}") from None
