"""Lines that Python itself would write as plain text."""

import json
import subprocess
import sys


def test_what_python_would_print_has_the_shape_of_the_log(environment: dict[str, str]) -> None:
    code = """
import threading, warnings
from app.platform.observability import logs
from app.settings import get_settings

class Unfinished:
    def __del__(self):
        raise ValueError("finalizer")

logs.configure(get_settings())
warnings.warn("deprecated", UserWarning)
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
Unfinished()
raise LookupError("main")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env=environment | {"LOG_LEVEL": "WARNING"},
        check=False,
    )
    assert (done.stderr, done.returncode) == (b"", 1)
    written = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["level"] for line in written] == ["warning", "critical", "critical", "critical"]
    for line, expected in zip(
        written, ("deprecated", "ZeroDivisionError", "finalizer", "main"), strict=True
    ):
        assert {"timestamp", "event", "logger"} <= set(line)
        assert expected in line.get("exception", line["event"])
