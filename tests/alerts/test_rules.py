"""Each alert fires, does not fire below its threshold, and resolves."""

from pathlib import Path

import pytest
import yaml

from tests.alerts import tools
from tests.alerts.scripted import Case, check

DAY = 86400
UP = 'up{job="api", instance="a"}'
OTHER = 'up{job="api", instance="b"}'
WORKER = 'up{job="worker", instance="w"}'
RUNNING = {UP: "1x300", OTHER: "1x300", WORKER: "1x300"}
POSTGRES = 'dependency_up{job="api", instance="a", dependency="postgres", critical="true"}'
POSTGRES_OF_B = 'dependency_up{job="api", instance="b", dependency="postgres", critical="true"}'
REDIS = 'dependency_up{job="api", instance="a", dependency="redis", critical="false"}'
SOURCE = 'metric_source_up{job="api", instance="a", source="jobs"}'
SOURCE_OF_B = 'metric_source_up{job="api", instance="b", source="jobs"}'
EXHAUSTED = 'db_pool_exhausted_seconds{job="api", instance="a"}'
WAITING = 'db_pool_waiting{job="api", instance="a"}'
LAG = 'event_loop_lag_seconds{job="api", instance="a"}'
OVERDUE = 'jobs_oldest_due_seconds{job="api", instance="a"}'
DEAD = 'jobs{job="api", instance="a", status="dead"}'
LATE = 'jobs_schedule_late_seconds{job="api", instance="a"}'
BREAKER = 'upstream_breaker_state{job="api", instance="a", upstream="billing"}'
MAILS = 'mails_oldest_seconds{job="api", instance="a"}'
WEBHOOKS_DUE = 'webhook_oldest_due_seconds{job="api", instance="a"}'
WEBHOOKS_DISABLED = 'webhook_subscriptions_disabled{job="api", instance="a"}'
FREE = 'node_filesystem_avail_bytes{job="machine", device="/dev/vda1", fstype="ext4"}'
SIZE = 'node_filesystem_size_bytes{job="machine", device="/dev/vda1", fstype="ext4"}'
MEMORY_FREE = 'node_filesystem_avail_bytes{job="machine", device="tmpfs", fstype="tmpfs"}'
MEMORY_SIZE = 'node_filesystem_size_bytes{job="machine", device="tmpfs", fstype="tmpfs"}'
EXPIRY = 'probe_ssl_earliest_cert_expiry{job="certificate", instance="https://api.example.com"}'

# Values in steps of 30 s: "1x19 0x20" is 1 for ten minutes, and then 0.
CASES = [
    Case(
        "ServiceDown",
        {UP: "1x19 0x20 1x40", OTHER: "1x19 0x20 1x40"},
        {"9m": "", "10m30s": "", "11m30s": "page", "20m": "page", "22m": ""},
    ),
    Case("ServiceDown", {UP: "1x19 0x40", OTHER: "1x300"}, {"20m": ""}),
    Case(  # gone, as targets are that nobody discovers any more
        "ServiceDown", {UP: "1x19 _x300", OTHER: "1x19 _x300"}, {"17m": "page", "2h": "page"}
    ),
    Case("ServiceDown", {}, {"30s": "", "2m": "page"}),
    Case("InstanceDown", {UP: "1x19 0x20 1x40"}, {"13m": "", "15m30s": "ticket", "22m": ""}),
    Case(
        "DependencyDown",
        {POSTGRES: "1x19 0x20 1x40", POSTGRES_OF_B: "1x19 0x20 1x40"},
        {"9m": "", "11m30s": "page", "22m": ""},
    ),
    Case("DependencyDown", {POSTGRES: "0x40", POSTGRES_OF_B: "1x40"}, {"10m": ""}),
    Case("DependencyDown", {REDIS: "1x19 0x20 1x40"}, {"12m": "", "16m": "ticket", "22m": ""}),
    Case(
        "MetricSourceDown",
        {SOURCE: "1x19 0x20 1x40", SOURCE_OF_B: "1x19 0x20 1x40"},
        {"9m": "", "12m": "", "15m30s": "ticket", "22m": ""},
    ),
    Case("MetricSourceDown", {SOURCE: "0x40", SOURCE_OF_B: "1x40"}, {"10m": ""}),
    Case(
        "DatabasePoolExhausted",
        {EXHAUSTED: "0x19 0+30x10 0x20"},
        {"10m": "", "11m": "", "12m": "page", "18m": ""},
    ),
    Case(
        "DatabasePoolWaiting",
        {WAITING: "0x19 3x40 0x60"},
        {"9m": "", "22m": "ticket", "45m": ""},
    ),
    Case("DatabasePoolWaiting", {WAITING: "0x19 9x1 0x60"}, {"15m": "", "20m": ""}),
    Case("EventLoopLag", {LAG: "0x19 0.2x40 0x60"}, {"9m": "", "20m": "ticket", "38m": ""}),
    Case("EventLoopLag", {LAG: "0x19 0.9x0 0x60"}, {"11m": "", "20m": ""}),
    Case(
        "WorkerDown",
        {WORKER: "1x19 0x30 1x40"},
        {"12m": "", "16m": "page", "27m": ""},
    ),
    Case("WorkerDown", {UP: "1x40"}, {"4m": "", "6m": "page"}),
    Case(
        "JobsOverdue",
        {OVERDUE: "0x19 0+30x60 0x40"},
        {"19m": "", "24m": "", "26m30s": "ticket", "42m": ""},
    ),
    Case("DeadJobs", {DEAD: "7x19 9x300"}, {"9m": "", "11m": "ticket", "100m": ""}),
    Case("DeadJobs", {DEAD: "9x19 7x300"}, {"11m": "", "100m": ""}),
    Case("SchedulerLate", {LATE: "0x19 0+30x60 0x40"}, {"13m": "", "18m": "ticket", "42m": ""}),
    Case(
        "UpstreamBreakerOpen",
        {BREAKER: "0x19 2x4 1x2 2x12 0x40"},
        {"9m": "", "11m": "", "14m": "ticket", "23m": ""},
    ),
    Case("UpstreamBreakerOpen", {BREAKER: "0x19 2x1 1 0x40"}, {"12m": "", "14m": ""}),
    Case(
        "MailsWaiting",
        {MAILS: "0x19 0+30x60 0x40"},
        {"19m": "", "24m": "", "26m30s": "ticket", "42m": ""},
    ),
    Case("MailsWaiting", {MAILS: "0x19 0+30x22 0x60"}, {"21m": "", "30m": ""}),  # greylisted
    Case(
        "WebhooksOverdue",
        {WEBHOOKS_DUE: "0x19 0+30x60 0x40"},
        {"24m": "", "29m": "", "31m30s": "ticket", "42m": ""},
    ),
    Case(
        "WebhookSubscriptionDisabled",
        {WEBHOOKS_DISABLED: "7x19 9x300"},
        {"9m": "", "11m": "ticket", "100m": ""},
    ),
    Case("WebhookSubscriptionDisabled", {WEBHOOKS_DISABLED: "9x19 7x300"}, {"11m": "", "100m": ""}),
    Case(
        "DiskAlmostFull",
        {FREE: "20x19 14x60 20x40", SIZE: "100x300"},
        {"9m": "", "24m": "", "25m30s": "ticket", "41m": ""},
    ),
    Case(
        "DiskAlmostFull",
        {FREE: "20x19 4x60 20x40", SIZE: "100x300"},
        {"9m": "", "15m30s": "page", "26m": "page ticket", "41m": ""},
    ),
    Case("DiskAlmostFull", {MEMORY_FREE: "1x60", MEMORY_SIZE: "100x60"}, {"29m": ""}),
    Case("CertificateExpiresSoon", {EXPIRY: f"{11 * DAY}x100"}, {"20m": ""}),
    Case(
        "CertificateExpiresSoon",
        {EXPIRY: f"{9 * DAY}x60 {90 * DAY}x40"},
        {"9m": "", "20m": "ticket", "40m": ""},
    ),
    Case(
        "CertificateExpiresSoon",
        {EXPIRY: f"{2 * DAY}x60 {90 * DAY}x40"},
        {"9m": "", "20m": "page ticket", "40m": ""},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_the_alert_fires_and_resolves(service: Path, tmp_path: Path, case: Case) -> None:
    check(service / "compose/rules", case, tmp_path)


def test_every_alert_is_seen_firing_not_firing_and_resolving(service: Path) -> None:
    groups = [
        group
        for path in (service / "compose/rules").glob("*.yml")
        if not path.name.startswith("slo-")  # test_burn_rates.py
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    alerts = {(rule["alert"], rule["labels"]["severity"]) for g in groups for rule in g["rules"]}
    resolved = {
        (case.alert, severity)
        for case in CASES
        for severity in " ".join(case.moments.values()).split()
        if "" in list(case.moments.values())[:1] and "" in list(case.moments.values())[-1:]
    }
    assert alerts == resolved


def test_promtool_accepts_the_rules(service: Path) -> None:
    tools.run(
        tools.promtool(), "check", "rules", *sorted((service / "compose/rules").glob("*.yml"))
    )
    # Debian's promtool is older than `scrape_config_files`, whose files have one key of the config.
    written = (service / "compose/prometheus.yml").read_text(encoding="utf-8")
    config = yaml.safe_load(written)
    [pattern] = config.pop("scrape_config_files")
    for path in (service / "compose").glob(pattern):
        more = yaml.safe_load(path.read_text(encoding="utf-8"))
        config["scrape_configs"] += more["scrape_configs"]
    (service / "compose/checked.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    tools.run(tools.promtool(), "check", "config", "--syntax-only", service / "compose/checked.yml")
