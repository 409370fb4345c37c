"""Prometheus metrics of jobs: backlog, waiting time, and attempts by outcome.

Every process reports the same backlog, counted in the jobs table: aggregate it with ``max``, not
``sum``. Attempts are counted by the worker that made them and served on ``WORKER_METRICS_PORT``.
"""

from collections.abc import Iterable
from datetime import datetime

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import Row

from app.platform.data.table_metrics import select_for_metrics
from app.platform.jobs import registry, store
from app.platform.jobs.schedules import first_tick

TTL = 5.0  # seconds; counting reads the index entry of every waiting job
STATES = ("queued", "running", "dead")
BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class AttemptMetrics:
    """Attempts of this process, by outcome and duration."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._attempts = Counter(
            "job_attempts",
            "Attempts at jobs, by outcome.",
            ["job", "outcome"],
            registry=registry,
        )
        self._duration = Histogram(
            "job_duration_seconds",
            "Duration of attempts at jobs.",
            ["job"],
            buckets=BUCKETS,
            registry=registry,
        )

    def observe(self, job: str, outcome: str, seconds: float) -> None:
        self._attempts.labels(job, outcome).inc()
        self._duration.labels(job).observe(seconds)


async def collect_backlog(app: FastAPI) -> Iterable[Metric]:
    """Jobs in the jobs table."""
    rows = await select_for_metrics(app, store.select_backlog())
    counts = {status: count for status, count, _, _ in rows}
    due = sum(due for status, _, due, _ in rows if status != "dead")
    waits = [float(wait) for status, _, _, wait in rows if status != "dead"]
    return _by_status(counts), _due(due), _longest_wait(max(waits, default=0))


async def collect_schedules(app: FastAPI) -> Iterable[Metric]:
    """Schedules that are late."""
    return [_lateness(await select_for_metrics(app, store.select_ticks()))]


def _by_status(counts: dict[str, int]) -> Metric:
    metric = GaugeMetricFamily("jobs", "Jobs, by status.", labels=["status"])
    for state in STATES:
        metric.add_metric([state], counts.get(state, 0))
    return metric


def _due(jobs: int) -> Metric:
    return GaugeMetricFamily("jobs_due", "Jobs that are due and wait for a worker.", value=jobs)


def _longest_wait(seconds: float) -> Metric:
    text = "Seconds since the job that has waited longest was due."
    return GaugeMetricFamily("jobs_oldest_due_seconds", text, value=max(0.0, seconds))


def _lateness(ticks: Iterable[Row[str, datetime, datetime]]) -> Metric:
    """Of the ticks that no scheduler has claimed, the age of the first."""
    crons = {definition.name: definition.cron or "" for definition in registry.scheduled()}
    late = (
        (now - first_tick(crons[name], ticked_at)).total_seconds()
        for name, ticked_at, now in ticks
        if name in crons
    )
    text = "Seconds since the first tick of a scheduled job that no scheduler has enqueued."
    return GaugeMetricFamily("jobs_schedule_late_seconds", text, value=max([0.0, *late]))
