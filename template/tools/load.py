"""A load test, run by Locust: `make load shape=ramp rate=50`.

LOAD_RATE: visits a second that count as 1x. LOAD_SHAPE: 1x, 2x, ramp or soak. LOAD_SECONDS: of each
step. LOAD_P99_MS and LOAD_ERRORS (percent): the test fails, and stops, at the first step that
exceeds one of them. The login is that of the smoke test, and so are its variables.

Each file in tools/load/ is a scenario: its TASKS are functions of a user, with their weights.
"""

import os
import random
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from locust import FastHttpUser, LoadTestShape, constant_throughput

HERE = Path(__file__).parent
SHAPES = {  # seconds of each step, and its multiples of LOAD_RATE
    "1x": (60, [1]),
    "2x": (60, [2]),
    "ramp": (30, [0.5, 1, 1.5, 2, 3, 4, 6, 8]),
    "soak": (3600, [1]),
}
LOGIN_SECONDS = 300  # tokens live longer

shape = os.environ.get("LOAD_SHAPE") or "1x"
if shape not in SHAPES:
    sys.exit(f"load: LOAD_SHAPE is {shape}; it must be one of {', '.join(SHAPES)}")
rate = float(os.environ.get("LOAD_RATE") or 20)
max_p99 = float(os.environ.get("LOAD_P99_MS") or 500)
max_errors = float(os.environ.get("LOAD_ERRORS") or 0.1)
step_seconds = float(os.environ.get("LOAD_SECONDS") or SHAPES[shape][0])
scenarios: dict[Callable[..., None], int] = {}
for file in sorted((HERE / "load").glob("*.py")):
    scenarios |= runpy.run_path(str(file))["TASKS"]
if not scenarios:
    sys.exit("load: tools/load/ has no scenario; docs/capacity.md shows how to write one")
headers: dict[str, str] = {}


def log_in(url: str) -> None:
    """Replace the header that all users send; without a login, end the test."""
    file = HERE.parent / ".secrets/smoke"
    lines = file.read_text().splitlines() if file.exists() else []
    stored = dict(line.split("=", 1) for line in lines if line.startswith("SMOKE_"))
    login = ["sh", str(HERE.parent / "deploy/login.sh"), url]
    environment = os.environ | stored
    done = subprocess.run(login, env=environment, stdout=subprocess.PIPE, text=True)  # noqa: S603
    if done.returncode:
        sys.exit("load: without a login there is nothing to measure")
    if done.stdout.strip():
        name, _, value = done.stdout.strip().partition(": ")
        headers[name] = value


class Visitor(FastHttpUser):
    """Makes one visit a second, or fewer if they take longer."""

    tasks = scenarios
    wait_time = constant_throughput(1)

    def on_start(self) -> None:
        time.sleep(random.random())  # noqa: S311 (users who start together would always call together)

    def send(self, method: str, path: str, **options: Any) -> Any:
        """Send a request of the caller who is logged in; ``name`` groups paths with ids."""
        return self.client.request(method, path, headers=headers, **options)


class Steps(LoadTestShape):
    """Multiples of the rate, one after the other, each judged at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.since, self.logged_in = 0, 0.0, 0.0

    def tick(self) -> tuple[int, float] | None:
        now, factors = time.monotonic(), SHAPES[shape][1]
        if now - self.logged_in > LOGIN_SECONDS:
            log_in(self.runner.environment.host)
            self.logged_in = time.monotonic()
        self.since = self.since or time.monotonic()
        if now - self.since >= step_seconds:
            if self._failed(factors[self.step]) or self.step + 1 == len(factors):
                return None
            self.step, self.since = self.step + 1, now
            self.runner.stats.reset_all()
        users = max(1, round(rate * factors[self.step]))
        return users, users

    def _failed(self, factor: float) -> bool:
        total = self.runner.stats.total
        p99 = total.get_response_time_percentile(0.99) or 0
        errors = total.fail_ratio * 100
        print(
            f"load: {factor:g}x: {total.total_rps:.1f} requests/s, median"
            f" {total.median_response_time} ms, p99 {p99:.0f} ms, {errors:.2f} % errors",
            flush=True,
        )
        problem = ""
        if not total.num_requests:
            problem = "no request was answered"
        elif errors > max_errors:
            problem = f"{errors:.2f} % errors are more than LOAD_ERRORS={max_errors:g}"
            failures = self.runner.stats.errors.values()
            if limited := sum(each.occurrences for each in failures if "429" in str(each.error)):
                problem += f"; {limited} are 429: start the service with RATE_LIMIT=off"
        elif p99 > max_p99:
            problem = f"a p99 of {p99:.0f} ms is more than LOAD_P99_MS={max_p99:g}"
        self.runner.environment.process_exit_code = 1 if problem else 0
        if problem:
            print(f"load: failed at {factor:g}x: {problem}", file=sys.stderr, flush=True)
        return bool(problem)
