"""What Prometheus is told of the jobs: how many wait and for how long, and how attempts end.

What waits is counted in the ledger by whichever process is scraped, so each gives the same number:
take the maximum over processes, not the sum. Attempts are counted by the worker that made them, and
served on ``WORKER_METRICS_PORT``.
"""

import time
from collections.abc import Iterable

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from app.platform.jobs import store

REMEMBERED = 5.0  # seconds that a count stays good: it reads every waiting job's index entry
STATES = ("queued", "running", "dead")
BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class Attempts:
    """How the attempts of this process ended."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ended = Counter(
            "job_attempts",
            "Attempts at jobs, by how they ended.",
            ["job", "outcome"],
            registry=registry,
        )
        self._duration = Histogram(
            "job_duration_seconds",
            "Duration of attempts.",
            ["job"],
            buckets=BUCKETS,
            registry=registry,
        )

    def observe(self, job: str, outcome: str, seconds: float) -> None:
        self._ended.labels(job, outcome).inc()
        self._duration.labels(job).observe(seconds)


class Backlog:
    """Counts the jobs in the ledger, at most every few seconds."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._metrics: list[Metric] = []
        self._until = 0.0

    async def collect(self) -> Iterable[Metric]:
        if time.monotonic() >= self._until:
            rows = await self._app.state.read_session.all(store.depth())
            counts = {status: count for status, count, _, _ in rows}
            due = sum(number for status, _, number, _ in rows if status != "dead")
            waits = [float(wait) for status, _, _, wait in rows if status != "dead"]
            self._metrics = [_counted(counts), _due(due), _oldest(max(waits, default=0))]
            self._until = time.monotonic() + REMEMBERED
        return self._metrics


def _counted(counts: dict[str, int]) -> Metric:
    metric = GaugeMetricFamily("jobs", "Jobs in the ledger.", labels=["status"])
    for state in STATES:
        metric.add_metric([state], counts.get(state, 0))
    return metric


def _due(jobs: int) -> Metric:
    return GaugeMetricFamily("jobs_due", "Jobs that wait for a worker, later ones not.", value=jobs)


def _oldest(seconds: float) -> Metric:
    text = "For how long the job that waits longest has been due."
    return GaugeMetricFamily("jobs_oldest_due_seconds", text, value=max(0.0, seconds))
