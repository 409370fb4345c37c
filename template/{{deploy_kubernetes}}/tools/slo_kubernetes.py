"""The objectives in Kubernetes: rules for the Prometheus operator, and the canary's gate."""

from pathlib import Path

from slo import HEADER, Files, Objective, Objectives

from app.platform.observability.metrics import DURATION

COMPONENTS = Path("deploy/kubernetes/components")
RULES_HEADER = f"""\
{HEADER.replace("slo.toml: change that file", "compose/rules: change those files")}\
# yamllint disable rule:line-length
"""
# Probes and the pods' own labels are in each query: a canary is judged by what its own pods did.
POD = 'namespace="{{args.namespace}}",\n            rollouts_pod_template_hash="{{args.pods}}"'
METRIC = """\
    - name: {name}
      initialDelay: 60s
      interval: 30s
      count: 5
      failureLimit: 1
      successCondition: {condition}
      provider:
        prometheus:
          address: "{{{{args.prometheus}}}}"
          query: >-
            {query}
"""
GATE = f"""\
{HEADER}\
# What a new version has to hold: asked of Prometheus every 30 s for two minutes, about its pods
# alone. One answer may be bad; the second one takes the version back. Probes are no requests.
apiVersion: argoproj.io/v1alpha1
kind: AnalysisTemplate
metadata:
  name: slo
  labels: {{app.kubernetes.io/component: api}}
spec:
  args:
    - name: namespace
    - name: pods
    - {{name: prometheus, value: "http://prometheus-operated.monitoring.svc:9090"}}
  metrics:
    # Without this, a version whose metrics nobody collects would pass.
"""


def files(objectives: Objectives, rules: Files) -> Files:
    """The files of the components ``monitoring`` and ``canary``."""
    gate = GATE + METRIC.format(
        name="is-watched",
        condition="len(result) > 0 && result[0] >= 1",
        query=f"count(build_info{{{POD}}})",
    )
    gate += "".join(map(_metric, objectives.gates))
    return {
        COMPONENTS / "monitoring/rules.yaml": RULES_HEADER + "".join(map(_rule, rules.items())),
        COMPONENTS / "canary/slo.yaml": gate,
    }


def _metric(each: Objective) -> str:
    least = 1 - (each.release_burn_rate or 1) * each.budget
    every, ends = f"{{{POD}, {each.requests()[1:-1]}}}[2m]", "}[2m]"
    if each.kind == "availability":
        failed = every.replace(ends, f', status=~"5.."{ends}')
        query = f"1 - (sum(rate({DURATION}_count{failed})) or vector(0))"
    else:
        fast = every.replace(ends, f", {each.bucket}{ends}")
        query = f"sum(rate({DURATION}_bucket{fast}))"
    query += f"\n            / sum(rate({DURATION}_count{every}))"
    promise = f"    # The objective: {each.promise}. No request is no failure.\n"
    return promise + METRIC.format(
        name=each.name,
        condition=f"len(result) == 0 || isNaN(result[0]) || result[0] >= {least:.6g}",
        query=query.replace(", ", ",\n            "),
    )


def _rule(file: tuple[Path, str]) -> str:
    path, text = file
    indented = "".join(f"  {line}\n" if line else "\n" for line in text.splitlines())
    return (
        "---\napiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\n"
        f"metadata:\n  name: {path.stem}\nspec:\n{indented}"
    )
