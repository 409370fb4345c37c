"""Looking inside the worker processes of the API."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.conftest import ROOT
from tests.system.serving import Serve


def test_each_worker_process_answers_and_says_which_it_is(
    serve: Serve, environment: dict[str, str]
) -> None:
    with TemporaryDirectory(prefix="d") as folder:  # short: a socket's path has at most 107 bytes
        server = serve(TMPDIR=folder)
        server.until(lambda: len(server.workers()) == 2)
        done = subprocess.run(
            [sys.executable, "-m", "app", "debug", "pools"],
            cwd=ROOT,
            env=environment | {"TMPDIR": folder},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        asked = {int(line.split()[1]) for line in done.stdout.splitlines() if "process " in line}
        assert asked == server.workers()
        assert server.stop() == 0
        assert list(Path(folder).rglob("*.sock")) == []
    audited = [line for line in server.lines() if line["event"] == "debug command"]
    assert {line["pid"] for line in audited} == asked
