"""Reads from a standby of Postgres (``DATABASE_REPLICA_URL``): the ``ReadSession`` of GET and HEAD.

Each process compares the standby with the primary: it takes the primary's position in the
write-ahead log, and asks the standby until that is replayed. What was committed before the position
was taken is then visible on the standby. (By its own clock, a standby that receives nothing has no
lag.) Reads go to the primary unless this was true ``DB_REPLICA_MAX_LAG`` ago; so do those of a
request that has written, and all that do not come from a ``ReadSessionDep``: the lookup of the
caller, and jobs.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any

from fastapi import FastAPI
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import Select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.platform.base import context
from app.platform.base.components import Lifespan
from app.platform.base.errors import DatabaseUnavailable, SchemaChanged, Unavailable
from app.platform.base.tasks import cancel
from app.platform.data.database import ReadSession, create_database
from app.platform.data.driver_errors import sqlstate
from app.platform.data.engine import create_engine
from app.platform.data.prepared_reads import Rows
from app.platform.observability import metrics
from app.platform.observability.logs import get_logger
from app.platform.settings import PlatformSettings

CHECK_INTERVAL = 0.5  # seconds between comparisons
CHECK_TIMEOUT = 2.0  # seconds for the standby's answer to one
CONNECTIONS = 1  # of a process, for comparisons: to the standby, outside of its pool
TIMED_OUT = "57014"  # SQLSTATE query_canceled: of statement_timeout
POSITION = text("SELECT pg_current_wal_lsn()::text")
COMPARISON = text(
    "SELECT pg_is_in_recovery() AS standby,"
    " pg_last_wal_replay_lsn() >= CAST(CAST(:position AS text) AS pg_lsn) AS replayed"
)

logger = get_logger(__name__)


class NoStandby(Exception):
    """The server is not a standby, perhaps no longer: what it has may never reach the primary."""


class Replica:
    """The standby, and how current it is known to be. ``settings``: those of the standby."""

    def __init__(self, app: FastAPI, settings: PlatformSettings) -> None:
        self.database = create_database(settings)
        self.reads = ReplicaReads(app, self)
        # Of time.monotonic(): what was committed before this is visible on the standby.
        self.current_at = -math.inf
        self._app = app
        self._settings = settings
        self._was_usable = False
        self._following: asyncio.Task[None] | None = None

    @property
    def lag(self) -> float:
        """Seconds by which the standby is behind at most, as far as this process knows."""
        return time.monotonic() - self.current_at

    @property
    def usable(self) -> bool:
        """Whether it may be read from; the first call begins the comparisons."""
        if self._following is None:  # workers and commands never ask
            self._following = asyncio.create_task(self._follow(), context=Context())
        return self.lag <= self._settings.db_replica_max_lag

    async def ping(self) -> None:
        """Raise if reads go to the primary."""
        if not self.usable:
            raise Unavailable("The standby does not answer, or is too far behind.")

    async def collect(self) -> Iterable[Metric]:
        lag = GaugeMetricFamily(
            "db_replica_lag_seconds",
            "Seconds by which the standby is behind at most, as this process knows.",
            value=self.lag,
        )
        return [lag]

    async def close(self) -> None:
        if self._following:
            await cancel(self._following)
        await self.database.engine.dispose()

    async def _follow(self) -> None:
        """Compare the standby with the primary, over and over, through outages of both."""
        engine = create_engine(self._settings, pooled=False)
        while True:
            try:
                async with engine.connect() as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    while True:
                        await self._compare(connection)
            except Exception as error:  # noqa: BLE001 (outages raise many types)
                self.current_at = -math.inf
                reason = error.__cause__ if isinstance(error, DatabaseUnavailable) else error
                self._log_change(type(reason).__name__)
            await asyncio.sleep(CHECK_INTERVAL)

    async def _compare(self, connection: AsyncConnection) -> None:
        """Wait until the standby has replayed what the primary has written by now."""
        began, replayed = time.monotonic(), False
        try:
            position = await self._app.state.db.read(lambda c: c.execute(POSITION).scalar_one())
        except (Unavailable, DBAPIError):  # perhaps it is only busy
            self._log_change("behind")
            await asyncio.sleep(CHECK_INTERVAL)
            return
        while not replayed:
            async with asyncio.timeout(CHECK_TIMEOUT):
                row = (await connection.execute(COMPARISON, {"position": position})).one()
            if not row.standby:
                raise NoStandby
            if replayed := row.replayed:
                self.current_at = began
            self._log_change("behind")
            await asyncio.sleep(CHECK_INTERVAL)

    def _log_change(self, reason: str) -> None:
        if self.usable == self._was_usable:
            return
        self._was_usable = self.usable
        if self.usable:
            logger.info("reads go to the standby")
        else:
            logger.warning("reads go to the primary", reason=reason)


class ReplicaReads(ReadSession):
    """SELECTs on the standby while it is usable, otherwise on the primary.

    What the standby fails to answer is asked of the primary, unless it is busy or was too slow.
    """

    def __init__(self, app: FastAPI, replica: Replica) -> None:
        super().__init__(app.state.db)
        self._replica = replica
        self._standby = ReadSession(replica.database)

    async def _read(
        self, statement: Select[*tuple[Any, ...]], values: dict[str, Any], limit: int | None = None
    ) -> Rows:
        if self._replica.usable and not context.current().has_written:
            try:
                return await self._standby._read(statement, values, limit)
            except (DatabaseUnavailable, SchemaChanged):
                self._replica.current_at = -math.inf  # until the next comparison
            except Unavailable:  # no connection was free in time
                if self._replica.usable:  # or else it hangs
                    raise
            except DBAPIError as error:
                if sqlstate(error) == TIMED_OUT:
                    raise
                if error.connection_invalidated:
                    self._replica.current_at = -math.inf
        return await super()._read(statement, values, limit)


def replica_settings(settings: PlatformSettings) -> PlatformSettings:
    """The settings with the standby in the place of the primary."""
    return settings.model_copy(update={"database_url": settings.database_replica_url})


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan | None:
    if not settings.database_replica_url:
        return None

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        app.state.replica = replica = Replica(app, replica_settings(settings))
        app.state.readiness.add("replica", replica.ping, critical=False)
        metrics.register(app, "replica", replica.collect)
        try:
            yield
        finally:
            await replica.close()

    return lifespan
