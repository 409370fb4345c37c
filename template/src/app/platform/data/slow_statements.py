"""The log of slow statements: text without values, duration, and the route or job."""

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from app.platform.base import context
from app.platform.observability.logs import get_logger
from app.platform.observability.telemetry import counter

MAX_LENGTH = 2000  # characters of a statement

SLOW_STATEMENTS = counter("db_slow_statements_total", "Statements slower than SLOW_STATEMENT_MS.")

logger = get_logger(__name__)


class SlowStatements:
    """Logs the statements that take ``threshold`` seconds or longer, also those that fail."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def finished(self, statement: str, started: float) -> None:
        """Log a statement that ``started`` then, in ``perf_counter()``, if it was slow."""
        seconds = time.perf_counter() - started
        if seconds >= self._threshold:
            SLOW_STATEMENTS.inc()
            logger.warning(
                "slow statement",
                statement=statement[:MAX_LENGTH],
                duration_ms=round(seconds * 1000, 1),
                route=context.current().name,
            )

    def listen(self, engine: AsyncEngine) -> None:
        """Time the statements of an engine, and its commits.

        Around the dialect's methods and not with events, which would keep reads from the fast path
        of ``prepared_reads``. Before the engine is traced: the spans call the methods, too.
        """
        dialect: Any = engine.sync_engine.dialect
        dialect.do_execute = self._around(dialect.do_execute)
        dialect.do_executemany = self._around(dialect.do_executemany)
        commit = dialect.do_commit

        def do_commit(connection: Any) -> None:
            started = time.perf_counter()
            try:
                commit(connection)
            finally:
                self.finished("COMMIT", started)

        dialect.do_commit = do_commit

    def _around(self, execute: Callable[..., None]) -> Callable[..., None]:
        def timed(cursor: Any, statement: str, values: Any, context: Any = None) -> None:
            started = time.perf_counter()
            try:
                execute(cursor, statement, values, context)
            finally:
                self.finished(statement, started)

        return timed
