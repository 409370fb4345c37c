"""Metrics of this process: CPU, memory, file descriptors, threads and garbage collections."""

import gc
import resource
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from app.platform.base.components import Lifespan
from app.platform.observability import metrics
from app.platform.observability.telemetry import counter, gauge, histogram
from app.platform.settings import PlatformSettings

STATM = Path("/proc/self/statm")  # Linux only
DESCRIPTORS = Path("/proc/self/fd")

CPU = counter("process_cpu_seconds_total", "CPU time of the processes, in user and system mode.")
MEMORY = gauge("process_resident_memory_bytes", "Resident memory, shared pages included.")
LARGEST = gauge(
    "process_resident_memory_max_bytes", "Resident memory of the largest process.", across="max"
)
OPEN_FDS = gauge(
    "process_open_fds", "File descriptors of the process that has most of them.", across="max"
)
MAX_FDS = gauge("process_max_fds", "Maximum file descriptors of a process.", across="min")
THREADS = gauge("process_threads", "Threads of Python.")
GC_PAUSES = histogram(
    "python_gc_pause_seconds",
    "Duration of a garbage collection, which pauses the process.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
)


class Sampler:
    """Sets the metrics of this process."""

    def __init__(self) -> None:
        self._cpu = 0.0
        self._pauses: list[float] = []
        self._started = 0.0

    def sample(self) -> None:
        """Set the metrics as they are now."""
        cpu = time.process_time()
        CPU.inc(max(0.0, cpu - self._cpu))
        self._cpu = cpu
        THREADS.set(threading.active_count())
        MAX_FDS.set(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        if STATM.exists():
            memory = int(STATM.read_text().split()[1]) * resource.getpagesize()
            MEMORY.set(memory)
            LARGEST.set(memory)
            # Without the one that lists them.
            OPEN_FDS.set(sum(1 for _ in DESCRIPTORS.iterdir()) - 1)
        pauses, self._pauses = self._pauses, []
        for seconds in pauses:
            GC_PAUSES.observe(seconds)

    def on_gc(self, phase: str, _info: dict[str, Any]) -> None:
        """Note a pause for the next sample: this may run while a lock of the metrics is held."""
        if phase == "start":
            self._started = time.perf_counter()
        else:
            self._pauses.append(time.perf_counter() - self._started)


def setup(app: FastAPI, settings: PlatformSettings) -> Lifespan:
    sampler = Sampler()
    metrics.on_sample(app, sampler.sample)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        gc.callbacks.append(sampler.on_gc)
        try:
            yield
        finally:
            gc.callbacks.remove(sampler.on_gc)

    return lifespan
