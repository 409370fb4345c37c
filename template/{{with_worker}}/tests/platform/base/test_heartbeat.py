"""Heartbeats of the worker and the scheduler."""

import os
from pathlib import Path

import pytest

from app.platform import about
from app.platform.base import heartbeat


@pytest.fixture(autouse=True)
def _temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_a_process_is_alive_while_it_touches_its_file(tmp_path: Path) -> None:
    assert not heartbeat.is_alive("worker")
    heartbeat.touch("worker")
    assert heartbeat.is_alive("worker")
    assert not heartbeat.is_alive("scheduler")
    [file] = tmp_path.iterdir()
    os.utime(file, (0, file.stat().st_mtime - heartbeat.STALE_AFTER))
    assert not heartbeat.is_alive("worker")


@pytest.mark.parametrize("other", ["checkout", "user"])
def test_another_checkout_or_user_has_a_heartbeat_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other: str
) -> None:
    heartbeat.touch("worker")
    [file] = tmp_path.iterdir()
    file.chmod(0)  # as if it belonged to another user
    if other == "checkout":
        monkeypatch.setattr(about, "project_folder", lambda: tmp_path / "elsewhere")
    else:
        monkeypatch.setattr(os, "getuid", lambda: 4711)

    assert not heartbeat.is_alive("worker")
    heartbeat.touch("worker")
    assert heartbeat.is_alive("worker")
    assert len(list(tmp_path.iterdir())) == 2
