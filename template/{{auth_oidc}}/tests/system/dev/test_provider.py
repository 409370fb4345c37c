"""The provider of development: kept where it was, and never for production."""

import os
import subprocess
import sys
from pathlib import Path

import httpx2

from app.platform.dev import oidc
from app.platform.dev.launch import running


def test_it_has_the_same_address_again_so_that_callers_keep_their_ids(tmp_path: Path) -> None:
    addresses = []
    for _ in range(2):
        with running([oidc.SERVER], tmp_path) as urls:
            addresses.append(urls["OIDC_ISSUER"])
            configuration = httpx2.get(f"{addresses[-1]}/.well-known/openid-configuration").json()
            assert configuration["issuer"] == addresses[-1]

    assert len(set(addresses)) == 1


def test_it_moves_when_its_port_is_taken(tmp_path: Path) -> None:
    with running([oidc.SERVER], tmp_path) as first:
        taken = (tmp_path / "login" / "port").read_text()
        elsewhere = tmp_path / "elsewhere" / "login"
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
