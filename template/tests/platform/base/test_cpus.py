"""The CPUs of a container: the machine's, or its cgroup's quota."""

import os
from pathlib import Path

import pytest

from app.platform.base import cpus


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with eight CPUs, whose cgroup is in ``tmp_path``."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cpus, "CGROUP_V2", tmp_path / "cpu.max")
    monkeypatch.setattr(cpus, "CGROUP_V1", tmp_path)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("1600000 100000", 8),
        ("unreadable", 8),
    ],
)
def test_a_quota_of_cgroup_v2_limits_the_cpus(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert cpus.available_cpus() == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("250000", 3)])
def test_a_quota_of_cgroup_v1_limits_the_cpus(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    assert cpus.available_cpus() == expected


def test_without_cgroups_it_is_the_machine(tmp_path: Path) -> None:
    assert cpus.available_cpus() == 8
