"""Metrics of one's own under several workers."""

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.multiprocess import MultiProcessCollector

WORKER = """
import os, sys
from prometheus_client import CollectorRegistry, values
from app.platform.observability.telemetry import bound_to, counter, gauge
total = counter("orders_paid_total", "Paid.")
sizes = {a: gauge(f"queue_{a}_bytes", "Size.", across=a) for a in ("sum", "max", "min")}
slot, value = sys.argv[1], float(sys.argv[2])
values.ValueClass = values.MultiProcessValue(lambda: slot)
with bound_to(CollectorRegistry()):
    total.inc(value)
    for size in sizes.values():
        size.set(value)
"""


def test_processes_report_the_sum_the_highest_or_the_lowest_of_their_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, slot, value])
        for slot, value in (("0", "3"), ("1", "5"))
    ]
    assert [worker.wait(30) for worker in workers] == [0, 0]
    collector = MultiProcessCollector(None, str(tmp_path))  # type: ignore[no-untyped-call]
    found = {
        sample.name: sample.value for metric in collector.collect() for sample in metric.samples
    }
    assert found["orders_paid_total"] == 8
    assert [found[f"queue_{each}_bytes"] for each in ("sum", "max", "min")] == [8, 5, 3]
