"""Prometheus metrics of webhooks that are sent.

Outcomes are counted by the worker that made the attempt. Every process reports the same numbers of
the tables: aggregate them with ``max``, not ``sum``.
"""

from collections.abc import Iterable

from fastapi import FastAPI
from prometheus_client.core import GaugeMetricFamily, Metric

from app.platform.data import webhook_deliveries, webhook_subscriptions
from app.platform.data.table_metrics import select_for_metrics
from app.platform.observability.telemetry import counter

TTL = 5.0  # seconds; each scrape of each process would count otherwise

DELIVERIES = counter(
    "webhook_deliveries_total",
    "Deliveries of webhooks after an attempt, by outcome: delivered, retried (later) or dead.",
    ["outcome"],
)


async def collect_deliveries(app: FastAPI) -> Iterable[Metric]:
    """Deliveries that are due."""
    [late] = await select_for_metrics(app, webhook_deliveries.select_lateness())
    return [_oldest_due(float(late.seconds or 0))]


async def collect_subscriptions(app: FastAPI) -> Iterable[Metric]:
    """Disabled subscriptions."""
    [disabled] = await select_for_metrics(app, webhook_subscriptions.select_disabled())
    return [_disabled(disabled.subscriptions)]


def _oldest_due(seconds: float) -> Metric:
    text = "Seconds since the delivery of a webhook that has waited longest was due."
    return GaugeMetricFamily("webhook_oldest_due_seconds", text, value=max(0.0, seconds))


def _disabled(subscriptions: int) -> Metric:
    text = "Subscriptions to webhooks that are disabled."
    return GaugeMetricFamily("webhook_subscriptions_disabled", text, value=subscriptions)
