"""Burn-rate alerts detect and reset as fast as the SRE workbook says.

Detection takes ``long window * burn rate * budget / share of failures``, from a window full of
successes: https://sre.google/workbook/alerting-on-slos/, "Detection time". Afterwards, the alert is
over when the short window is: ``short window * (1 - burn rate * budget / share of failures)``. Long
windows are sums of 5-minute rates, which adds at most five minutes to both.
"""

import math
from pathlib import Path

import pytest

from tests.alerts.scripted import Case, check, run

COUNT = "http_server_request_duration_seconds_count"
BUCKET = "http_server_request_duration_seconds_bucket"
LABELS = 'job="api", instance="a", method="GET", route="/api/v1/items"'
OK, FAILED = f'{COUNT}{{{LABELS}, status="200"}}', f'{COUNT}{{{LABELS}, status="500"}}'
FROM_SAMPLES = ("5m", "30m", "1h")  # the windows that are not sums of rates
FAST = f'{BUCKET}{{{LABELS}, status="200", le="0.5"}}'
OLDEST = 'jobs_oldest_due_seconds{job="api", instance="a"}'
SMOOTHING = 6.0  # minutes: the rates that long windows are made of, and an evaluation


def rising(*phases: tuple[float, int]) -> str:
    """A counter in promtool's notation: pairs of an increase per step, and a number of steps."""
    parts, value = ["0"], 0.0
    for step, count in phases:
        parts.append(f"{value + step:.12g}+{step:.12g}x{count - 1}")
        value += step * count
    return " ".join(parts)


def at(minutes: float) -> str:
    return f"{round(minutes * 60)}s"


def timeline(*, history: float, fault: float, share: float, step: float = 0.5) -> dict[str, str]:
    """6000 requests per minute; ``share`` of them fail during a fault of so many minutes."""
    before, during, after = (round(each / step) for each in (history, fault, 8 * 60))
    requests = 6000 * step
    return {
        OK: rising((requests, before), (requests * (1 - share), during), (requests, after)),
        FAILED: rising((0, before), (requests * share, during), (0, after)),
    }


# The share of requests that fail, of a budget of 0.1 %; the pair of windows that sees it first,
# with its burn rate, and what the alert is then.
FAULTS = [
    (1.0, "1h", "5m", 14.4, "page"),
    (0.1, "1h", "5m", 14.4, "page"),
    (0.02, "1h", "5m", 14.4, "page"),
    (0.01, "6h", "30m", 6, "page"),
    (0.005, "1d", "2h", 3, "ticket"),
    (0.002, "3d", "6h", 1, "ticket"),
]
MINUTES = {"5m": 5, "30m": 30, "1h": 60, "2h": 120, "6h": 360, "1d": 1440, "3d": 4320}


@pytest.mark.parametrize(("share", "long", "short", "burn", "severity"), FAULTS)
def test_detection_and_reset_take_as_long_as_in_the_workbook(
    service: Path,
    tmp_path: Path,
    share: float,
    long: str,
    short: str,
    burn: float,
    severity: str,
) -> None:
    step = 0.5 if MINUTES[long] < 1000 else 5
    slack = SMOOTHING if long not in FROM_SAMPLES else 1
    detection, reset = (
        MINUTES[long] * burn * 0.001 / share,
        MINUTES[short] * (1 - burn * 0.001 / share),
    )
    history = MINUTES["6h" if severity == "page" else "3d"]  # for the other pair as well
    fault = math.ceil((detection + slack) / step + 2) * step
    pair = " and ".join(
        f'slo:failures:ratio_rate{window}{{slo="availability"}} > {burn} * 0.001'
        for window in (long, short)
    )
    alerts = f'ALERTS{{alertname="AvailabilityErrorBudgetBurn", severity="{severity}"}}'
    one = [{"labels": "{}", "value": 1}]
    tests = [
        {"expr": f"count({expression})", "eval_time": at(history + moment), "exp_samples": expected}
        for expression, moment, expected in (
            (pair, detection - 2 * step, []),
            (alerts, detection - 2 * step, []),
            (pair, detection + slack + step, one),
            (alerts, detection + slack + step, one),
            (pair, fault + reset - 2 * step, one),
            (pair, fault + reset + slack + 2 * step, []),
        )
    ]
    series = timeline(history=history, fault=fault, share=share, step=step)
    run(service / "compose/rules", series, tests, tmp_path, f"{step * 60:g}s")


def test_an_outage_pages_for_half_an_hour_after_its_end(service: Path, tmp_path: Path) -> None:
    """The second pair of windows has seen it as well."""
    series = timeline(history=360, fault=10, share=1)
    moments = {at(361): "page", at(397): "page", at(402): ""}
    case = Case("AvailabilityErrorBudgetBurn", series, moments)
    check(service / "compose/rules", case, tmp_path, "page")


def test_slow_requests_burn_the_budget_of_latency(service: Path, tmp_path: Path) -> None:
    series = {
        OK: rising((300, 360)),
        FAST: rising((300, 120), (150, 60), (300, 180)),  # half of them for half an hour
    }
    moments = {"59m": "", "80m": "page", "110m": "page", "119m": ""}
    case = Case("LatencyErrorBudgetBurn", series, moments)
    check(service / "compose/rules", case, tmp_path, "page")


def test_jobs_that_wait_too_long_burn_the_budget_of_freshness(
    service: Path, tmp_path: Path
) -> None:
    series = {OLDEST: "10x119 400x60 10x120"}
    moments = {"59m": "", "70m": "page", "112m": "page", "120m": ""}
    case = Case("JobFreshnessErrorBudgetBurn", series, moments)
    check(service / "compose/rules", case, tmp_path, "page")


def test_failures_below_the_minimum_call_nobody(service: Path, tmp_path: Path) -> None:
    """Of twelve requests in an hour six fail, which is 500 times the budget."""
    few = {OK: rising((0.1, 240)), FAILED: rising((0, 120), (0.1, 60), (0, 60))}
    enough = {OK: rising((0.1, 240)), FAILED: rising((0, 120), (0.4, 60), (0, 60))}
    rules = service / "compose/rules"
    alert = "AvailabilityErrorBudgetBurn"
    check(rules, Case(alert, few, {"75m": "", "89m": ""}), tmp_path, "page")
    check(rules, Case(alert, enough, {"70m": "", "89m": "page"}), tmp_path, "page")


def test_no_requests_are_no_failures(service: Path, tmp_path: Path) -> None:
    none = {OK: "7x300", FAILED: "3x300"}
    check(
        service / "compose/rules",
        Case("AvailabilityErrorBudgetBurn", none, {"60m": "", "140m": ""}),
        tmp_path,
    )


def test_the_budget_that_is_left_is_recorded(service: Path, tmp_path: Path) -> None:
    """In half of the time, 0.1 % failed: half of the budget is gone, and all of it later on."""
    series = timeline(history=60, fault=60, share=0.001)
    left = 'round(slo:error_budget_remaining:ratio{slo="availability"}, 0.05)'
    tests = [
        {
            "expr": left,
            "eval_time": moment,
            "exp_samples": [{"labels": '{slo="availability"}', "value": value}],
        }
        for moment, value in (("59m", 1), ("120m", 0.5))
    ]
    run(service / "compose/rules", series, tests, tmp_path)


def test_namespaces_have_budgets_of_their_own(service: Path, tmp_path: Path) -> None:
    series = timeline(history=60, fault=30, share=0.5)
    two = {
        name.replace("{", f'{{namespace="{namespace}", '): values if broken else sound
        for namespace, broken in (("staging", True), ("shop", False))
        for name, values in series.items()
        for sound in [values if "200" in name else "0x1500"]
    }
    alerts = (
        'count by (namespace) (ALERTS{alertname="AvailabilityErrorBudgetBurn",severity="page"})'
    )
    only = [{"labels": '{namespace="staging"}', "value": 1}]
    tests = [{"expr": alerts, "eval_time": "80m", "exp_samples": only}]
    run(service / "compose/rules", two, tests, tmp_path)
