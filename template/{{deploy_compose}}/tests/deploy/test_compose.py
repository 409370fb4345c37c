"""The proxy's time-outs and those of the service agree; the page starts all of the monitoring."""

import re

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
