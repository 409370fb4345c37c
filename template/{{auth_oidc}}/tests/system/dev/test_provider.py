"""The development provider: its URL is stable, and it does not run in production."""

import os
import subprocess
import sys
from pathlib import Path

import httpx2

from app.platform.dev import oidc
from app.platform.dev.launch import running


def test_the_url_is_the_same_at_each_start(tmp_path: Path) -> None:
    urls_seen = []
    for _ in range(2):
        with running([oidc.SERVER], tmp_path) as urls:
            urls_seen.append(urls["OIDC_ISSUER"])
            configuration = httpx2.get(f"{urls_seen[-1]}/.well-known/openid-configuration").json()
            assert configuration["issuer"] == urls_seen[-1]

    assert len(set(urls_seen)) == 1


def test_another_port_is_used_if_the_previous_one_is_taken(tmp_path: Path) -> None:
    with running([oidc.SERVER], tmp_path) as first:
        taken = (tmp_path / "oidc" / "port").read_text()
        elsewhere = tmp_path / "elsewhere" / "oidc"
        elsewhere.mkdir(parents=True)
        (elsewhere / "port").write_text(taken)
        with running([oidc.SERVER], elsewhere.parent) as second:
            assert httpx2.get(f"{second['OIDC_ISSUER']}/jwks").is_success

    assert first != second


def test_it_does_not_run_in_production() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "app.platform.dev.provider", "0"],
        env={**os.environ, "ENVIRONMENT": "production"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert result.returncode == 1
    assert "it is for development and tests" in result.stderr
