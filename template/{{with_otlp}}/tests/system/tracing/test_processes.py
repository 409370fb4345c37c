"""Traces of several processes: the server's forked workers, and background processes."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fastapi import APIRouter

from app.platform.http import routing
from app.platform.jobs import BACKGROUND_PROCESSES, Jobs, JobStatus
from app.settings import Settings
from tests.conftest import ROOT, client_for
from tests.platform.jobs import samples
from tests.platform.observability.tracing.receiver import CONSUMER, Collector, traced
from tests.system.serving import Serve

router = APIRouter()
JOB = "tests.platform.jobs.samples.note"


@router.post("/notes", status_code=202)
async def take_note(text: str, jobs: Jobs) -> JobStatus:
    return await jobs.enqueue(samples.note, text=text)


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        await asyncio.sleep(0.05)


async def test_each_forked_worker_exports_its_spans(serve: Serve, collector: Collector) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    server = serve(**endpoint)
    server.until(lambda: len(server.workers()) == 2)
    pids = {server.pid() for _ in range(40)}
    await until(lambda: len(collector.instances) == len(pids))
    assert len(pids) == 2
    assert server.stop() == 0
    assert len({span.span_id for span in collector.spans}) == len(collector.spans)


@contextmanager
def background_processes(environment: dict[str, str], folder: Path) -> Iterator[None]:
    """Run the background processes of the queue, if it has any, with the tests' jobs."""
    code = "import tests.platform.jobs.samples; from app.cli import main; main()"
    base = {**os.environ, **environment, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    with ExitStack() as running:
        for name in BACKGROUND_PROCESSES:
            log = running.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-c", code, name],
                env=base,
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
            running.callback(process.wait, 60)
            running.callback(process.terminate)
        yield


async def test_a_job_in_another_process_is_in_the_trace_of_its_request(
    fresh_settings: Settings, environment: dict[str, str], collector: Collector, tmp_path: Path
) -> None:
    environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "50"
    async with traced(fresh_settings, collector.url) as app:
        app.include_router(router)
        routing.install_index(app)
        with background_processes(environment, tmp_path):
            async with client_for(app) as client:
                assert (await client.post("/notes?text=s3cret")).status_code == 202
            await until(lambda: {JOB, "RPUSH", "POST /notes"} <= {s.name for s in collector.spans})
    request, job = collector.one("POST /notes"), collector.one(JOB)
    assert job.kind == CONSUMER
    assert job.trace_id == request.trace_id
    assert job.parent_span_id == request.span_id
    assert collector.one("RPUSH").parent_span_id == job.span_id
    assert "s3cret" not in str(collector.spans)
