"""What Gunicorn makes of ``gunicorn.conf.py``."""

import re
import socket
import subprocess
import sys

from tests.conftest import ROOT
from tests.system.serving import Serve


def test_processes_outlive_idle_load_balancers_and_are_replaced(
    environment: dict[str, str],
) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "gunicorn", "--print-config"],
        env={**environment, "WEB_CONCURRENCY": "3"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    config = dict(re.findall(r"^(\w+)\s+= (.*)$", printed, flags=re.MULTILINE))
    assert int(config["keepalive"]) > 60  # the idle time-out of most load balancers
    assert 0 < int(config["max_requests_jitter"]) < int(config["max_requests"])
    assert config["workers"] == "3"


def test_an_idle_connection_is_closed_after_the_keep_alive_timeout(serve: Serve) -> None:
    server = serve(GUNICORN_CMD_ARGS="--keep-alive 1", WEB_CONCURRENCY="1")
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.settimeout(30)
        received = b""
        while chunk := connection.recv(4096):
            received += chunk
    assert received.startswith(b"HTTP/1.1 200")
