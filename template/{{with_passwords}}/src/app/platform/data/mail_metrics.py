"""Prometheus metrics of mails that wait: their number, and the age of the oldest.

Every process reports the same mails, counted in the database: aggregate with ``max``, not ``sum``.
"""

from collections.abc import Iterable

from fastapi import FastAPI
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import column, func, select, table

from app.platform.data.table_metrics import select_for_metrics

TTL = 15.0  # seconds; counting reads the whole table, which is nearly empty unless mails wait

_mails = table("mails", column("created_at"), column("expires_at"), column("is_decoy"))
_age = func.extract("epoch", func.now() - func.min(_mails.c.created_at))
WAITING = select(func.count(), _age).where(
    _mails.c.is_decoy.is_(False), _mails.c.expires_at > func.now()
)


async def collect(app: FastAPI) -> Iterable[Metric]:
    """Mails that the mail server has not accepted."""
    [(count, age)] = await select_for_metrics(app, WAITING)
    return (
        GaugeMetricFamily("mails_waiting", "Mails that wait for delivery.", value=count),
        GaugeMetricFamily(
            "mails_oldest_seconds",
            "Age of the oldest mail that waits for delivery.",
            value=float(age or 0),
        ),
    )
