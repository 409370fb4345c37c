"""No-op jobs of every queue that has a worker, measured on this machine, now, as one table.

    python benchmarks/queues.py [--turns 3]

A service for each queue is rendered and installed into build/queues, with the same Python
(``--python``). Each turn runs ``compare.py jobs`` of all of them, one after the other, so that a
busy machine slows all; figures are medians of the turns, with the lowest and the highest.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "queues"
QUEUES = ("postgres", "taskiq", "arq", "celery")
DRAINED = re.compile(r"throughput x([\d.]+).* CPU x([\d.]+) .*\((\d+) to .*, ([\d.]+) ms of CPU")
STARTED = re.compile(r"commit to start.*\(([\d.]+) and ([\d.]+) to ")
COLUMNS = {
    "jobs/s": 2,
    "to two statements by hand": 0,
    "CPU time to them": 1,
    "ms of CPU for each": 3,
    "commit to start, p50 in ms": 4,
    "p99": 5,
}


def install(queue: str, environment: dict[str, str]) -> Path:
    """Render and install a service with ``queue``; return its folder."""
    folder = BUILD / queue
    shutil.rmtree(folder, ignore_errors=True)
    copy = ["copier", "copy", "--trust", "--defaults", "--quiet", "--vcs-ref", "HEAD"]
    subprocess.run([*copy, "-d", f"queue={queue}", ROOT, folder], cwd=ROOT, check=True)
    subprocess.run(["uv", "sync", "--quiet"], cwd=folder, env=environment, check=True)
    return folder


def measure(folder: Path, environment: dict[str, str]) -> list[float]:
    """The figures of one run, in the order in which it prints them."""
    command = ["uv", "run", "python", "benchmarks/compare.py", "jobs", "--rounds", "1"]
    done = subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    drained, started = DRAINED.search(done.stdout), STARTED.search(done.stdout)
    assert drained, done.stdout
    assert started, done.stdout
    return [float(figure) for figure in (*drained.groups(), *started.groups())]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="the interpreter of all services")
    options = parser.parse_args()
    environment = os.environ | {"UV_PYTHON": options.python}
    environment.pop("VIRTUAL_ENV", None)
    folders = {queue: install(queue, environment) for queue in QUEUES}
    found: dict[str, list[list[float]]] = {queue: [] for queue in QUEUES}
    for turn in range(options.turns):
        for queue in QUEUES if turn % 2 else reversed(QUEUES):
            found[queue].append(measure(folders[queue], environment))
    print(f"{options.turns} turns, load {os.getloadavg()[0]:.1f}, medians (lowest to highest).\n")
    print(f"| queue | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 1)}|")
    for queue, runs in found.items():
        cells = []
        for place in COLUMNS.values():
            figures = [run[place] for run in runs]
            middle = statistics.median(figures)
            cells.append(f"{middle:g} ({min(figures):g} to {max(figures):g})")
        print(f"| `{queue}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
