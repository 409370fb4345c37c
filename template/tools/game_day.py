"""A game day: faults in a local stack, and the alerts that fire.

    uv run python tools/game_day.py [FAULT ...]

Starts the containers of ``compose.yaml`` and Prometheus, in a Compose project of its own, under
steady traffic. Injects each fault of ``tools/game-day/*.toml``, or those named; files ``*.yaml``
there are more for Compose, files ``*.py`` more routes and jobs of the service. The fault's alert
has to fire; after the step of its runbook, it has to resolve. Prints a table; exits with 1 if an
alert did not do so. ``IMAGE``: an image of the service, which is otherwise built.

The rules are those of ``compose/rules``, with all times divided by ``FACTOR``: windows, ``for``,
and thresholds of a minute or more. Burn rates and shares do not depend on it.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Semaphore, Thread
from typing import Any

from app.platform.jobs import BACKGROUND_PROCESSES

ROOT = Path(__file__).parent.parent
FAULTS = ROOT / "tools/game-day"
FOLDER = ROOT / ".local/game-day"
FACTOR = 30  # an hour becomes two minutes
SCRAPE = 5  # seconds between scrapes, and for one: a busy service needs some
SHORTEST_WINDOW = 3 * SCRAPE  # seconds: a rate needs two samples
SHORTEST_WAIT = 10  # seconds of a threshold: the backlog is counted every five
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
TRAFFIC = 8  # requests per second
IN_FLIGHT = 50  # requests at once; with more, a scrape would not be answered in time
PATIENCE = 240  # seconds for an alert to fire, and to resolve


@dataclass(frozen=True)
class Fault:
    """A fault. ``inject`` and ``reduce`` are shell commands, run in the project's folder."""

    name: str
    alert: str
    step: str  # of the runbook's "How to reduce the impact"; ``reduce`` takes it
    inject: str = "true"
    reduce: str = "true"
    requests: str = ""  # a method and a path, called while the fault lasts
    rate: float = 0  # per second
    lasting: bool = False  # whether the requests go on until the alert has resolved
    labels: dict[str, str] = field(default_factory=dict)  # of the alert, to tell it from others


@dataclass(frozen=True)
class Outcome:
    """What a fault led to; seconds since ``inject`` had ended, and since ``reduce`` began."""

    fault: Fault
    fired: float | None
    resolved: float | None
    others: tuple[str, ...]  # other alerts that fired


def faults(folder: Path = FAULTS) -> list[Fault]:
    """All faults, by file."""
    files = sorted(folder.glob("*.toml"))
    return [Fault(**each) for file in files for each in tomllib.loads(file.read_text())["fault"]]


def shortened(rules: str) -> str:
    """Rules or configuration of Prometheus with all times divided by ``FACTOR``."""

    def divided(number: str, unit: str, least: int) -> str:
        return f"{max(least, round(int(number) * SECONDS[unit] / FACTOR))}s"

    def window(found: re.Match[str]) -> str:
        length = divided(found[1], found[2], SHORTEST_WINDOW)
        return f"[{length}:{divided(found[3], found[4], 1)}]" if found[3] else f"[{length}]"

    def waited(seconds: int) -> int:
        return seconds if seconds < 60 else max(SHORTEST_WAIT, round(seconds / FACTOR))

    rules = re.sub(r"\[(\d+)([smhd])(?::(\d+)([smhd]))?\]", window, rules)
    rules = re.sub(
        r"(for|\w*interval): (\d+)([smhd])",
        lambda found: f"{found[1]}: {divided(found[2], found[3], 1)}",
        rules,
    )
    return re.sub(
        r"(?<=> )(bool )?(\d{2,})\b(?! \*)",
        lambda found: (found[1] or "") + str(waited(int(found[2]))),
        rules,
    )


def write_stack() -> None:
    """Write the shortened rules, and what this stack has on top of ``compose.yaml``."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "rules").mkdir(parents=True)
    for path in (ROOT / "compose/rules").glob("*.yml"):
        (FOLDER / "rules" / path.name).write_text(shortened(path.read_text()))
    configuration = shortened((ROOT / "compose/prometheus.yml").read_text())
    configuration = re.sub(
        r"scrape_interval: \w+",
        f"scrape_interval: {SCRAPE}s\n  evaluation_interval: 1s",
        configuration,
    )
    (FOLDER / "prometheus.yml").write_text(configuration)
    release = [
        f"{ROOT}/tools/game_day_release.py:/game_day_release.py:ro",
        f"{FAULTS}:/game-day:ro",
    ]
    services: dict[str, Any] = {
        name: {
            "command": ["python", "/game_day_release.py", command],
            "environment": {"GAME_DAY": "${GAME_DAY:-}", "RATE_LIMIT": "off"},
            "volumes": release,
        }
        for name, command in [("api", "serve"), *zip(*[BACKGROUND_PROCESSES] * 2, strict=True)]
    }
    mounted = [FOLDER / "prometheus.yml", FOLDER / "rules", FAULTS / "scrape"]
    services["prometheus"] = {
        "volumes": [f"{path}:/etc/prometheus/{path.name}:ro" for path in mounted if path.exists()]
    }
    # JSON is YAML.
    (FOLDER / "compose.yaml").write_text(json.dumps({"services": services}, indent=2))


def run(command: str) -> None:
    """Run a shell command in the project's folder; raises with its output if it fails."""
    done = subprocess.run(  # noqa: S602 (the commands are those of this repository)
        command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    if done.returncode:
        sys.exit(
            f"{command}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )


@contextmanager
def stack() -> Iterator[None]:
    """Start the containers, and remove them with their volumes."""
    write_stack()
    files = [ROOT / "compose.yaml", *sorted(FAULTS.glob("*.yaml")), FOLDER / "compose.yaml"]
    os.environ |= {
        "COMPOSE_PROJECT_NAME": "game-day",
        "COMPOSE_FILE": os.pathsep.join(map(str, files)),
        "API_PORT": str(free_port()),
        "PROMETHEUS_PORT": str(free_port()),
    }
    run("sh compose/secrets.sh")
    try:
        build = "--no-build" if "IMAGE" in os.environ else "--build"
        run(f"docker compose up {build} --wait --wait-timeout 180")
        run("docker compose up --no-build --wait --wait-timeout 60 prometheus")
        yield
    finally:
        run("docker compose --profile '*' down --volumes --timeout 5")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def traffic(call: str, rate: float) -> Iterator[None]:
    """Send ``rate`` requests a second, whether or not earlier ones have been answered."""
    method, path = call.split()
    url = f"http://127.0.0.1:{os.environ['API_PORT']}{path}"
    stopped, free = Event(), Semaphore(IN_FLIGHT)

    def ask() -> None:
        with suppress(OSError):  # a failure is for the service's metrics to tell
            request = urllib.request.Request(url, method=method)
            urllib.request.urlopen(request, timeout=30).close()  # noqa: S310 (loopback)
        free.release()

    def send(pool: ThreadPoolExecutor) -> None:
        while not stopped.wait(1 / rate):
            if free.acquire(blocking=False):
                pool.submit(ask)

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        sender = Thread(target=send, args=[pool])
        sender.start()
        try:
            yield
        finally:
            stopped.set()
            sender.join()


def firing() -> list[dict[str, str]]:
    """The labels of each alert that fires."""
    url = f"http://127.0.0.1:{os.environ['PROMETHEUS_PORT']}/api/v1/alerts"
    with urllib.request.urlopen(url, timeout=10) as response:
        alerts = json.load(response)["data"]["alerts"]
    return [alert["labels"] for alert in alerts if alert["state"] == "firing"]


def fires(fault: Fault) -> bool:
    """Whether the fault's alert fires."""
    wanted = {"alertname": fault.alert, **fault.labels}.items()
    return any(wanted <= labels.items() for labels in firing())


def seconds_until(condition: Callable[[], bool]) -> float | None:
    """Seconds until ``condition`` holds; ``None``: not within ``PATIENCE``."""
    start = time.monotonic()
    while (passed := time.monotonic() - start) < PATIENCE:
        if condition():
            return passed
        time.sleep(0.5)
    return None


def try_out(fault: Fault) -> Outcome:
    """Inject a fault, wait for its alert, take the runbook's step, and wait for the end of it."""
    if seconds_until(lambda: not fires(fault)) is None:
        return Outcome(fault, None, None, ("the alert, before the fault",))
    before = {labels["alertname"] for labels in firing()}
    run(fault.inject)
    start = time.monotonic()
    with ExitStack() as requests:
        if fault.requests:
            requests.enter_context(traffic(fault.requests, fault.rate))
        detected = seconds_until(lambda: fires(fault))
        fired = detected and time.monotonic() - start
        others = {labels["alertname"] for labels in firing()} - before - {fault.alert}
        if not fault.lasting:
            requests.close()
        start = time.monotonic()
        run(fault.reduce)
        ended = seconds_until(lambda: not fires(fault)) is not None
        resolved = time.monotonic() - start if ended else None
    return Outcome(fault, fired, resolved, tuple(sorted(others)))


def table(outcomes: list[Outcome]) -> str:
    """A Markdown table."""

    def length(seconds: float | None) -> str:
        return "never" if seconds is None else f"{seconds:.0f} s"

    rows = [
        "| fault | alert | fired after | step | resolved after | also fired |",
        "|---|---|---|---|---|---|",
    ]
    for each in outcomes:
        cells = [
            each.fault.name,
            each.fault.alert,
            length(each.fired),
            each.fault.step,
            length(each.resolved),
            ", ".join(each.others),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def main(names: list[str]) -> int:
    known = {fault.name: fault for fault in faults()}
    if unknown := set(names) - set(known):
        sys.exit(f"no such fault: {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    outcomes: list[Outcome] = []
    try:
        with stack(), traffic("GET /game-day/work", TRAFFIC):
            for fault in [known[name] for name in names or known]:
                print(f"{fault.name}...", file=sys.stderr)
                outcomes.append(try_out(fault))
    finally:  # also of a game day that was interrupted
        print(table(outcomes))
    return int(any(None in (each.fired, each.resolved) for each in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
