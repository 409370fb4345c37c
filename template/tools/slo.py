"""Rules, alerts and release gates from the objectives in ``slo.toml``.

    uv run python tools/slo.py [--check]

Writes them in each form that the service needs; with ``--check``, only lists the files that are not
current, and exits with 1 if there are any. The method is that of the SRE workbook, chapter 5,
"Multiwindow, Multi-Burn-Rate Alerts" (https://sre.google/workbook/alerting-on-slos/).

A module ``tools/slo_*.py`` writes one more form: its ``files(objectives, rules)`` returns texts,
by their paths.
"""

import importlib
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.platform.observability.metrics import BUCKETS, DURATION

ROOT = Path(__file__).parent.parent
SOURCE = "slo.toml"
RULES = Path("compose/rules")
HEADER = f"# Written by `make slo` from {SOURCE}: change that file, not this one.\n"
INTERVAL = 30  # seconds between evaluations

Files = dict[Path, str]


@dataclass(frozen=True)
class Window:
    """A pair of windows: the long one makes sure, the short one ends the alert soon after."""

    long: str
    short: str
    budget: float  # the share of the error budget that is gone when the alert fires
    severity: Literal["page", "ticket"]

    def burn_rate(self, days: int) -> float:
        """How many times faster than allowed the budget is spent; 1: all of it in ``days``."""
        return round(self.budget * days * 86400 / seconds(self.long), 6)


# The workbook's table 5-8.
WINDOWS = (
    Window("1h", "5m", 0.02, "page"),
    Window("6h", "30m", 0.05, "page"),
    Window("1d", "2h", 0.1, "ticket"),
    Window("3d", "6h", 0.1, "ticket"),
)
SEVERITIES: tuple[Literal["page", "ticket"], ...] = ("page", "ticket")
# Longer ones are sums of the 5-minute rates, which are far fewer samples.
FROM_SAMPLES = ("5m", "30m", "1h")


def seconds(window: str) -> int:
    """The seconds of a duration such as ``5m`` or ``3d``."""
    return int(window[:-1]) * {"m": 60, "h": 3600, "d": 86400}[window[-1]]


class Objective(BaseModel):
    """One objective of ``slo.toml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z]+(-[a-z0-9]+)*$")
    kind: Literal["availability", "latency", "freshness"]
    objective: float = Field(ge=50, lt=100)  # percent
    within: float | None = Field(None, gt=0)  # seconds
    routes: str = ""
    except_routes: str = ""
    release_burn_rate: float | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.within is None) != (self.kind == "availability"):
            raise ValueError("`within` is for latency and freshness, which need it")
        if self.kind == "latency" and self.within not in BUCKETS:
            raise ValueError(f"`within` has to be a bucket: {', '.join(map(str, BUCKETS))}")
        if self.kind == "freshness" and (self.routes or self.except_routes):
            raise ValueError("freshness is about jobs, which have no routes")
        if self.kind == "freshness" and self.release_burn_rate:
            raise ValueError("freshness is no property of one version, so it gates no release")
        if any(set("\"\\\n'") & set(text) for text in (self.routes, self.except_routes)):
            raise ValueError("write a route's expression without quotes and backslashes")
        return self

    @property
    def budget(self) -> float:
        """The share of events that may fail."""
        return round(1 - self.objective / 100, 9)

    @property
    def alert(self) -> str:
        """The name of its alerts."""
        return "".join(map(str.capitalize, self.name.split("-"))) + "ErrorBudgetBurn"

    @property
    def runbook(self) -> str:
        return f"docs/runbooks/{self.name}-error-budget-burn.md"

    @property
    def promise(self) -> str:
        """What it promises, for people."""
        share = f"{self.objective:g} %"
        if self.kind == "availability":
            return f"{share} of requests get no 5xx response"
        if self.kind == "latency":
            return f"{share} of successful requests end within {self.within:g} s"
        return f"in {share} of the time, no job has been due for more than {self.within:g} s"

    def requests(self, *matchers: str) -> str:
        """The selector of the requests that it is about, with more ``matchers``."""
        own = [f'route=~"{self.routes}"'] if self.routes else []
        own += [f'route!~"{self.except_routes}"'] if self.except_routes else []
        own += ['status!~"5.."'] if self.kind == "latency" else []
        return f"{{{', '.join([*own, *matchers])}}}"

    @property
    def bucket(self) -> str:
        """The label of the slowest bucket that is fast enough."""
        return f'le="{float(self.within or 0)}"'


class Objectives(BaseModel):
    """The contents of ``slo.toml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: int = Field(ge=28, le=90)  # days
    minimum_failures: int = Field(ge=1)
    objectives: tuple[Objective, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        named = content.get("objectives", {})
        return cls.model_validate(
            {**content, "objectives": [{"name": name, **each} for name, each in named.items()]}
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        fastest = max(window.burn_rate(self.window) for window in WINDOWS)
        for each in self.objectives:
            if each.budget * fastest >= 1:
                least = 100 * (1 - 1 / fastest)
                raise ValueError(
                    f"{each.name}: not even a complete outage would page; with a window of "
                    f"{self.window} days, an objective is above {least:.1f} %"
                )
        return self

    @property
    def gates(self) -> tuple[Objective, ...]:
        """The objectives that a new version has to meet."""
        return tuple(each for each in self.objectives if each.release_burn_rate)


def recorded(series: str, name: str, expression: str) -> str:
    """A recording rule."""
    return (
        f"      - record: {series}\n"
        f"        labels: {{ slo: {name} }}\n"
        f"        expr: >-\n          {expression}\n"
    )


def _of_requests(each: Objective, windows: tuple[str, ...]) -> Iterator[str]:
    """Ratios of failed requests, with the numbers that they are made of."""
    for window in windows:
        own = f'{{slo="{each.name}"}}'
        if window in FROM_SAMPLES:
            count = f"sum by (namespace) (rate({DURATION}_count{{}}[{window}]))"
            events = count.replace("{}", each.requests())
            if each.kind == "availability":
                bad = count.replace("{}", each.requests('status=~"5.."'))
                failures = f"{bad}\n          or 0 * {events}"
            else:
                fast = each.requests(each.bucket)
                good = f"sum by (namespace) (rate({DURATION}_bucket{fast}[{window}]))"
                failures = f"{events}\n          - {good}"
            yield recorded(f"slo:events:rate{window}", each.name, events)
            yield recorded(f"slo:failures:rate{window}", each.name, failures)
            ratio = f"slo:failures:rate{window}{own} / slo:events:rate{window}{own}"
        else:
            ratio = (
                f"sum_over_time(slo:failures:rate5m{own}[{window}])\n"
                f"          / sum_over_time(slo:events:rate5m{own}[{window}])"
            )
        yield recorded(f"slo:failures:ratio_rate{window}", each.name, ratio)


def _of_time(each: Objective, windows: tuple[str, ...]) -> Iterator[str]:
    """Shares of time in which jobs waited for too long."""
    oldest = f"max by (namespace) (jobs_oldest_due_seconds) > bool {each.within:g}"
    yield recorded("slo:failing:bool", each.name, oldest)
    for window in windows:
        share = f'avg_over_time(slo:failing:bool{{slo="{each.name}"}}[{window}])'
        yield recorded(f"slo:failures:ratio_rate{window}", each.name, share)


def _failures(each: Objective, window: str) -> str:
    """The number of failures in a window."""
    if window in FROM_SAMPLES:
        return f'slo:failures:rate{window}{{slo="{each.name}"}} * {seconds(window)}'
    return f'sum_over_time(slo:failures:rate5m{{slo="{each.name}"}}[{window}]) * {INTERVAL}'


def _alert(objectives: Objectives, each: Objective, severity: Literal["page", "ticket"]) -> str:
    burning = []
    for window in (window for window in WINDOWS if window.severity == severity):
        limit = f"{window.burn_rate(objectives.window):g} * {each.budget:g}"
        conditions = [
            f'slo:failures:ratio_rate{length}{{slo="{each.name}"}} > {limit}'
            for length in (window.long, window.short)
        ]
        if each.kind != "freshness":
            conditions.append(f"{_failures(each, window.long)} >= {objectives.minimum_failures}")
        burning.append("({})".format("\n          and ".join(conditions)))
    condition = "\n          or ".join(burning)
    when = "at once" if severity == "page" else "within days"
    of = "of the time breaks" if each.kind == "freshness" else "of requests break"
    return (
        f"      - alert: {each.alert}\n"
        f"        expr: >-\n          {condition}\n"
        f"        labels: {{ severity: {severity}, slo: {each.name} }}\n"
        "        annotations:\n"
        f'          summary: "{{{{ $value | humanizePercentage }}}} {of} the objective '
        f'{each.name}."\n'
        f'          description: "The objective: {each.promise}, over {objectives.window} days. '
        f'The error budget will be spent too soon: act {when}."\n'
        f"          runbook: {each.runbook}\n"
    )


def rules(objectives: Objectives, each: Objective) -> str:
    """The rule file of one objective, for Prometheus."""
    window = f"{objectives.window}d"
    lengths = {length for pair in WINDOWS for length in (pair.long, pair.short)} | {window}
    windows = tuple(sorted(lengths, key=seconds))
    record = _of_time if each.kind == "freshness" else _of_requests
    remaining = f'1 - slo:failures:ratio_rate{window}{{slo="{each.name}"}} / {each.budget:g}'
    return (
        f"{HEADER}# {each.promise[0].upper()}{each.promise[1:]}.\n"
        f"groups:\n  - name: slo-{each.name}\n    interval: {INTERVAL}s\n    rules:\n"
        + "".join(record(each, windows))
        + recorded("slo:objective:ratio", each.name, f"vector({each.objective / 100:g})")
        + recorded("slo:error_budget_remaining:ratio", each.name, remaining)
        + "".join(_alert(objectives, each, severity) for severity in SEVERITIES)
    )


def written(objectives: Objectives, root: Path = ROOT) -> dict[Path, str | None]:
    """What the files should contain, by their paths; ``None``: there is no such objective."""
    found: dict[Path, str | None] = {
        path.relative_to(root): None for path in (root / RULES).glob("slo-*.yml")
    }
    own = {
        RULES / f"slo-{each.name}.yml": rules(objectives, each) for each in objectives.objectives
    }
    found |= own
    theirs = {
        path.relative_to(root): path.read_text(encoding="utf-8")
        for path in (root / RULES).glob("*.yml")
    }
    everything = {path: theirs[path] for path in set(theirs) - set(found)} | own
    sys.path.insert(0, str(root / "tools"))
    for module in sorted(path.stem for path in (root / "tools").glob("slo_*.py")):
        files: Callable[[Objectives, Files], Files] = importlib.import_module(module).files
        found |= files(objectives, dict(sorted(everything.items())))
    return found


def stale(root: Path = ROOT) -> dict[Path, str | None]:
    """The files that are not current, with what they should contain."""
    expected = written(Objectives.read(root / SOURCE), root)
    return {
        path: text
        for path, text in expected.items()
        if text != ((root / path).read_text(encoding="utf-8") if (root / path).exists() else None)
    }


def main(arguments: list[str]) -> int:
    try:
        changes = stale()
    except ValidationError as error:
        for each in error.errors():
            where = ".".join(map(str, each["loc"]))
            print(f"{SOURCE}: {where}: {each['msg']}", file=sys.stderr)
        return 2
    for path, text in changes.items():
        print(path)
        if "--check" not in arguments:
            if text is None:
                (ROOT / path).unlink()
            else:
                (ROOT / path).write_text(text, encoding="utf-8")
    return int("--check" in arguments and bool(changes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
