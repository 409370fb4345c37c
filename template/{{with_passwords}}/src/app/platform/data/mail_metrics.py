"""Prometheus metrics of mails that wait: their number, and the age of the oldest.

Every process reports the same mails, counted in the database: aggregate with ``max``, not ``sum``.
"""

import time
from collections.abc import Iterable

from fastapi import FastAPI
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import column, func, select, table

TTL = 15.0  # seconds; counting reads the whole table, which is nearly empty unless mails wait

_mails = table("mails", column("created_at"), column("expires_at"), column("is_decoy"))
_age = func.extract("epoch", func.now() - func.min(_mails.c.created_at))
WAITING = select(func.count(), _age).where(
    _mails.c.is_decoy.is_(False), _mails.c.expires_at > func.now()
)


class MailMetrics:
    """Mails that the mail server has not accepted, counted at most every ``TTL`` seconds."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._metrics: list[Metric] = []
        self._expires_at = 0.0

    async def collect(self) -> Iterable[Metric]:
        if time.monotonic() >= self._expires_at:
            [(count, age)] = await self._app.state.read_session.all(WAITING)
            self._metrics = [
                GaugeMetricFamily("mails_waiting", "Mails that wait for delivery.", value=count),
                GaugeMetricFamily(
                    "mails_oldest_seconds",
                    "Age of the oldest mail that waits for delivery.",
                    value=float(age or 0),
                ),
            ]
            self._expires_at = time.monotonic() + TTL
        return self._metrics
