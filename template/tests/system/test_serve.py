"""Gunicorn as in production: several workers, signals, and a killed worker."""

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from tests.system.serving import Serve, Server, free_port, load

# The second worker waits just after the fork.
PAUSED = """
import os, time
from pathlib import Path
from service_under_test import create_app

gates = Path(os.environ["GATES"])

def pause():
    try:
        (gates / "first-forked").touch(exist_ok=False)
    except FileExistsError:
        (gates / "second-forked").touch()
        while not (gates / "signalled").exists():
            time.sleep(0.02)

os.register_at_fork(after_in_child=pause)
"""


def test_two_workers_serve_and_all_log_lines_share_their_fields(serve: Serve) -> None:
    server = serve()
    server.until(lambda: len(server.workers()) == 2)
    assert server.stop() == 0
    lines = server.lines()
    assert {"gunicorn.error", "uvicorn.error", "app.request"} <= {line["logger"] for line in lines}
    assert all({"timestamp", "level", "event", "logger"} <= set(line) for line in lines)
    assert not [line for line in lines if line["level"] in ("warning", "error")]


def test_serve_works_from_another_folder(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text("raise SystemExit('not this one')")
    (tmp_path / ".env").write_text("LOG_LEVEL=nonsense")
    server = serve("app", "serve", cwd=tmp_path)
    assert server.get("/health/live").is_success
    assert server.stop() == 0
    assert {line["logger"] for line in server.lines()} >= {"gunicorn.error", "uvicorn.error"}


def test_a_given_metrics_folder_keeps_what_others_have_there(serve: Serve, tmp_path: Path) -> None:
    given = tmp_path / "metrics"
    given.mkdir()
    (given / "of_another_service.db").touch()
    server = serve(PROMETHEUS_MULTIPROC_DIR=str(given))
    server.until(lambda: len(server.workers()) == 2)
    assert request_count(server) > 0
    server.process.send_signal(signal.SIGHUP)
    server.until(lambda: "Handling signal: hup" in server.log.read_text())
    server.until(lambda: request_count(server) > 0)
    [folder] = [path for path in given.iterdir() if path.is_dir()]
    assert list(folder.glob("*.db"))
    assert server.stop() == 0
    assert [path.name for path in given.iterdir()] == ["of_another_service.db"]


def test_sigterm_loses_no_request(serve: Serve) -> None:
    server = serve(DRAIN_SECONDS="5")
    with load(server) as outcomes:
        server.until(lambda: outcomes["200"] > 20)
        server.process.send_signal(signal.SIGTERM)
        server.until(lambda: server.get("/health/ready").status_code == 503, 5)
        assert server.get("/test/pid").headers["connection"] == "close"
        time.sleep(1)  # as long as a load balancer takes to notice
    assert server.process.poll() is None
    assert set(outcomes) == {"200"}, outcomes
    assert server.process.wait(20) == 0


def test_a_request_in_flight_finishes_after_sigterm(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    server.until(lambda: len(server.workers()) == 2)
    responses: list[httpx2.Response] = []
    client = threading.Thread(
        target=lambda: responses.append(server.get("/test/gate?name=in-flight"))
    )
    client.start()
    server.until((tmp_path / "in-flight-reached").exists)
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.log.read_text().count('"Shutting down"') == 2)
    (tmp_path / "in-flight-open").touch()
    assert server.process.wait(20) == 0
    client.join()
    assert responses[0].status_code == 200


def test_an_endless_stream_does_not_prevent_a_clean_shutdown(serve: Serve) -> None:
    server = serve(GUNICORN_CMD_ARGS="--graceful-timeout 8")  # 1 s of it for requests in flight
    server.until(lambda: len(server.workers()) == 2)
    with httpx2.stream("GET", server.url + "/test/stream") as response:
        next(response.iter_bytes())
        assert server.stop() == 0
    events = [line["event"] for line in server.lines()]
    assert events.count("Application shutdown complete.") == 2
    assert not [event for event in events if "SIGKILL" in str(event)]


def test_a_worker_that_was_only_just_forked_does_not_delay_shutdown(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "paused.py").write_text(PAUSED)
    server = serve("gunicorn", "paused:create_app()")
    server.until((tmp_path / "second-forked").exists)
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: "Worker exiting" in server.log.read_text())  # both have had the signal
    (tmp_path / "signalled").touch()
    assert server.process.wait(20) == 0


@pytest.mark.parametrize("route", ["thread", "sync"])
def test_a_thread_that_hangs_does_not_prevent_a_clean_shutdown(
    serve: Serve, tmp_path: Path, route: str
) -> None:
    server = serve(GUNICORN_CMD_ARGS="--graceful-timeout 9", WEB_CONCURRENCY="1")

    def request() -> None:
        with suppress(httpx2.TransportError):
            server.get(f"/test/{route}?seconds=600")

    client = threading.Thread(target=request)
    client.start()
    server.until((tmp_path / f"{route}-reached").exists)
    assert server.stop() == 0
    client.join()
    # Gunicorn says nothing of a worker that it has to kill in the end.
    events = [str(line["event"]) for line in server.lines()]
    assert [event for event in events if event.startswith("Worker exiting")]


def test_sighup_replaces_the_workers_and_loses_no_request(serve: Serve) -> None:
    server = serve(DRAIN_SECONDS="1")
    server.until(lambda: len(server.workers()) == 2)
    before = server.workers()
    with load(server) as outcomes:
        server.until(lambda: outcomes["200"] > 20)
        server.process.send_signal(signal.SIGHUP)
        server.until(lambda: len(server.workers() - before) == 2, 40)
        server.until(lambda: not server.workers() & before, 40)
    assert set(outcomes) == {"200"}, outcomes
    assert server.stop() == 0


def test_a_killed_worker_is_replaced_and_its_counters_remain(serve: Serve) -> None:
    server = serve()
    server.until(lambda: len(server.workers()) == 2)
    killed = server.pid()
    server.until(lambda: request_count(server) == server.pid_requests)
    os.kill(killed, signal.SIGKILL)
    server.until(lambda: len(server.workers() - {killed}) == 2)
    server.until(lambda: request_count(server) == server.pid_requests)
    assert len({request_count(server) for _ in range(10)}) == 1, "each worker reports the sum"
    assert server.stop() == 0


def request_count(server: Server) -> float:
    """The number of successful requests to /test/pid, from /metrics."""
    text = server.get("/metrics").text
    sample = 'request_duration_seconds_count{method="GET",route="/test/pid",status="200"} '
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if sample in line)


def test_gauges_cover_running_workers_only(serve: Serve) -> None:
    server = serve(DB_POOL_SIZE="3", DB_MAX_OVERFLOW="1")
    server.until(lambda: len(server.workers()) == 2)
    killed: set[int] = set()
    for _ in range(2):
        server.until(lambda: "db_pool_connections 8.0" in server.get("/metrics").text)
        killed.add(pid := server.pid())
        os.kill(pid, signal.SIGKILL)
        server.until(lambda: len(server.workers() - killed) == 2)


def test_metrics_can_have_a_separate_port(serve: Serve) -> None:
    port = free_port()
    server = serve(METRICS_PORT=str(port))
    assert server.get("/metrics").status_code == 404
    assert "build_info" in httpx2.get(f"http://127.0.0.1:{port}/metrics").text
    assert httpx2.get(f"http://127.0.0.1:{port}/test/pid").status_code == 404


def test_a_hanging_worker_is_killed_and_replaced(serve: Serve) -> None:
    server = serve(GUNICORN_CMD_ARGS="--timeout 2", HEARTBEAT_INTERVAL="0.2")
    server.until(lambda: len(server.workers()) == 2)
    before = server.workers()
    with pytest.raises(httpx2.TransportError):
        server.get("/test/busy?seconds=60")
    server.until(lambda: bool(server.workers() - before))


def test_an_invalid_environment_starts_nothing(serve: Serve) -> None:
    server = serve(SECRET_KEY="short", DATABASE_URL="mysql://nope")
    assert server.process.wait(10) != 0
    text = server.log.read_text()
    assert "SECRET_KEY" in text
    assert "DATABASE_URL" in text
    assert "Booting worker" not in text
