"""The objectives as CloudWatch alarms: ``deploy/alarms.yaml``, a stack of its own.

The longest period of a metric is a day, so the pair of three days and six hours is left out.
"""

from pathlib import Path

from cloudwatch_metrics import METRICS, PARAMETER, RESPONSE_TIME, UNIT
from slo import HEADER, WINDOWS, Files, Objective, Objectives, Window, seconds

STACK = Path("deploy/alarms.yaml")
PAIRS = tuple(window for window in WINDOWS if seconds(window.long) <= seconds("1d"))
HEAD = f"""\
{HEADER}\
# Alarms on what clients see: an alarm for each window, and one for each severity that combines them
# and tells a topic. docs/deploy.md says how to create this stack.
AWSTemplateFormatVersion: "2010-09-09"
Description: Alarms on the objectives of slo.toml

Parameters:
  {PARAMETER}
  PageTopic: {{ Type: String, Description: ARN of the SNS topic for what cannot wait }}
  TicketTopic: {{ Type: String, Description: ARN of the SNS topic for what can wait }}

Resources:
"""


def files(objectives: Objectives, rules: Files) -> Files:
    """The stack of the alarms."""
    del rules  # CloudWatch has no metrics of the service's own, and so none of jobs
    found = [each for each in objectives.objectives if each.kind != "freshness"]
    return {STACK: HEAD + "\n".join(_alarms(objectives, each) for each in found)}


def _alarms(objectives: Objectives, each: Objective) -> str:
    name = each.alert.removesuffix("ErrorBudgetBurn")
    text = f"  # {each.promise[0].upper()}{each.promise[1:]}.\n"
    for pair in PAIRS:
        limit = round(pair.burn_rate(objectives.window) * each.budget, 9)
        text += _alarm(each, name, pair.long, limit, objectives.minimum_failures)
        text += _alarm(each, name, pair.short, limit, 1)
    for severity in ("page", "ticket"):
        text += _combined(each, name, [pair for pair in PAIRS if pair.severity == severity])
    return text


def _metric(identifier: str, source: str, statistic: str, window: str) -> str:
    return (
        f"        - Id: {identifier}\n          ReturnData: false\n          MetricStat:\n"
        f"            Stat: {statistic}\n            Period: {seconds(window)} # seconds\n"
        f"            Metric: {source}\n"
    )


def _alarm(each: Objective, name: str, window: str, limit: float, least: int) -> str:
    answered = "FILL(answered, 0)"
    refused = " + FILL(refused, 0)" if "refused" in METRICS else ""
    if each.kind == "availability":
        metrics = "".join(_metric(key, source, "Sum", window) for key, source in METRICS.items())
        failures, total = f"FILL(failed, 0){refused}", f"{answered}{refused}"
    else:
        metrics = _metric("answered", METRICS["answered"], "Sum", window)
        slow = f"PR({(each.within or 0) * UNIT:g}:)"  # percent of what took longer
        metrics += _metric("slow", RESPONSE_TIME, f'"{slow}"', window)
        failures, total = f"{answered} * FILL(slow, 0) / 100", answered
    return (
        f"  {name}Burn{window}:\n    Type: AWS::CloudWatch::Alarm\n    Properties:\n"
        f"      AlarmDescription: The error budget of {each.name} burns, seen over {window}\n"
        f"      Metrics:\n{metrics}"
        f'        - {{ Id: failures, ReturnData: false, Expression: "{failures}" }}\n'
        f'        - {{ Id: total, ReturnData: false, Expression: "{total}" }}\n'
        f'        - {{ Id: share, Expression: "IF(failures >= {least}, failures / total, 0)" }}\n'
        f"      EvaluationPeriods: 1\n      Threshold: {limit:g}\n"
        "      ComparisonOperator: GreaterThanThreshold\n      TreatMissingData: notBreaching\n"
    )


def _combined(each: Objective, name: str, pairs: list[Window]) -> str:
    rule = " OR ".join(
        f"(ALARM(${{{name}Burn{pair.long}}}) AND ALARM(${{{name}Burn{pair.short}}}))"
        for pair in pairs
    )
    topic = pairs[0].severity.capitalize()
    return (
        f"  {each.alert}{topic}:\n    Type: AWS::CloudWatch::CompositeAlarm\n    Properties:\n"
        f"      AlarmDescription: {each.runbook}\n"
        f"      AlarmRule: !Sub {rule}\n"
        f"      AlarmActions: [!Ref {topic}Topic]\n      OKActions: [!Ref {topic}Topic]\n"
    )
