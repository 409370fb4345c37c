"""The proxy's time-outs and those of the service agree; the page starts all of the monitoring."""

import re

import pytest

from app.platform.observability.metrics import PATH
from tests.conftest import ROOT
from tests.timeouts import rows


def test_the_proxy_waits_longer_than_a_release_takes_to_replace_the_service() -> None:
    caddyfile = (ROOT / "deploy/Caddyfile").read_text(encoding="utf-8")
    [waits] = re.findall(r"lb_try_duration (\d+)s", caddyfile)
    page = rows()
    assert page["deploy/Caddyfile: lb_try_duration"].seconds == int(waits)
    assert int(waits) > page["compose.yaml: stop_grace_period"].seconds


def test_the_proxy_leaves_the_time_out_of_a_response_to_the_service() -> None:
    """Caddy has none by default; one would cut streams and large bodies."""
    caddyfile = (ROOT / "deploy/Caddyfile").read_text(encoding="utf-8")
    assert not re.search(r"(?m)^\s*(response_header_timeout|read_timeout|write_timeout)", caddyfile)


@pytest.mark.parametrize("prefix", ["", "/shop"])
def test_metrics_are_not_public_with_or_without_the_prefix(prefix: str) -> None:
    caddyfile = (ROOT / "deploy/Caddyfile").read_text(encoding="utf-8")
    assert "respond @metrics 404" in caddyfile
    [paths] = re.findall(r"@metrics path (.+)", caddyfile.replace("{$ROOT_PATH}", prefix))
    assert {PATH, prefix + PATH} == set(paths.split())


def test_the_proxy_and_the_service_have_the_same_prefix() -> None:
    production = (ROOT / "compose.production.yaml").read_text(encoding="utf-8")
    for service in ("proxy", "api"):
        [definition] = re.findall(rf"(?m)^  {service}:\n(?:    .*\n|\n)+", production)
        assert "\n      ROOT_PATH: ${ROOT_PATH:-}\n" in definition


def test_the_page_starts_every_container_of_the_monitoring() -> None:
    files = [ROOT / name for name in ("compose.yaml", "compose.production.yaml")]
    services = "".join(file.read_text(encoding="utf-8") for file in files)
    monitoring = re.findall(
        r"(?m)^  (\w+):\n(?:    .*\n|\n)*?    profiles: \[monitoring\]$", services
    )
    page = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    [command] = re.findall(r"docker compose up --wait --no-deps (prometheus .+)", page)
    assert {"prometheus", "blackbox"} <= set(monitoring)
    assert set(command.split()) == set(monitoring)
