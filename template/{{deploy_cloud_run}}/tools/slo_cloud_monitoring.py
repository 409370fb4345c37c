"""The objectives as alerting policies of Cloud Monitoring, in PromQL on Cloud Run's own metrics.

Latencies there are a histogram with buckets of Cloud Run's choice: a share of slow requests above a
limit is the same as a quantile above ``within``.
"""

from pathlib import Path

from slo import WINDOWS, Files, Objective, Objectives, Window, seconds

FOLDER = Path("deploy/alerts")
OF = 'monitored_resource="cloud_run_revision", service_name="${SERVICE}"'
REQUESTS = "run_googleapis_com:request_count"
LATENCIES = "run_googleapis_com:request_latencies_bucket"  # milliseconds
FAILED = 'response_code_class="5xx"'
SUCCEEDED = 'response_code_class!="5xx"'
# The longest range of a query in an alerting policy is a day.
PAIRS = tuple(window for window in WINDOWS if seconds(window.long) <= seconds("1d"))
POLICY = """\
# Written by `make slo` from slo.toml: change that file, not this one.
displayName: {name} ({severity})
combiner: OR
severity: {level}
userLabels: {{ slo: {slo}, severity: {severity} }}
documentation:
  mimeType: text/markdown
  content: >-
    The objective: {promise}, over {days} days. Runbook: {runbook}
conditions:
  - displayName: The error budget burns too fast
    conditionPrometheusQueryLanguage:
      evaluationInterval: 60s
      duration: 0s
      query: >-
        {query}
"""


def files(objectives: Objectives, rules: Files) -> Files:
    """A policy for each objective and severity."""
    del rules  # Cloud Monitoring has no samples of the service's own
    return {
        FOLDER / f"{each.name}-{severity}.yaml": POLICY.format(
            name=each.alert,
            severity=severity,
            level="CRITICAL" if severity == "page" else "WARNING",
            slo=each.name,
            promise=each.promise,
            days=objectives.window,
            runbook=each.runbook,
            query="\n        or ".join(
                _pair(objectives, each, pair) for pair in PAIRS if pair.severity == severity
            ),
        )
        for each in objectives.objectives
        if each.kind != "freshness"  # a pool of workers has no metrics of jobs there
        for severity in ("page", "ticket")
    }


def _pair(objectives: Objectives, each: Objective, pair: Window) -> str:
    limit = round(pair.burn_rate(objectives.window) * each.budget, 9)
    burning = [_burning(each, window, limit) for window in (pair.long, pair.short)]
    failures = f"sum(increase({REQUESTS}{{{OF}, {FAILED}}}[{pair.long}]))"
    if each.kind == "latency":
        failures = f"sum(increase({REQUESTS}{{{OF}, {SUCCEEDED}}}[{pair.long}])) * {limit:g}"
    enough = f"{failures} >= {objectives.minimum_failures}"
    return "({})".format("\n        and ".join([*burning, enough]))


def _burning(each: Objective, window: str, limit: float) -> str:
    if each.kind == "availability":
        failed = f"sum(rate({REQUESTS}{{{OF}, {FAILED}}}[{window}]))"
        return f"{failed}\n        / sum(rate({REQUESTS}{{{OF}}}[{window}])) > {limit:g}"
    buckets = f"sum by (le) (rate({LATENCIES}{{{OF}, {SUCCEEDED}}}[{window}]))"
    return f"histogram_quantile({1 - limit:g}, {buckets}) > {(each.within or 0) * 1000:g}"
