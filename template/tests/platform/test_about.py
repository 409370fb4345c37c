"""The folder that commands use, wherever they run."""

import sys
from pathlib import Path

import pytest

from app.platform import about
from tests.commands import run_command
from tests.conftest import ROOT


def project_folder() -> Path:
    return about.project_folder.__wrapped__()


def test_in_a_checkout_the_project_is_that_of_the_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "gunicorn.conf.py").touch()  # of another project
    monkeypatch.chdir(tmp_path)

    assert project_folder() == ROOT


def test_in_an_image_the_project_is_that_of_the_virtual_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "gunicorn.conf.py").touch()
    environment = tmp_path / ".venv"
    module = environment / "lib" / "python3" / "site-packages" / "app" / "platform" / "about.py"
    monkeypatch.setattr(sys, "prefix", str(environment))
    monkeypatch.setattr(about, "__file__", str(module))
    monkeypatch.chdir("/")

    assert project_folder() == tmp_path


def test_a_command_without_a_project_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str]
) -> None:
    monkeypatch.setattr(about, "project_folder", lambda: tmp_path)
    result = run_command("migrate", env=environment)

    assert result.returncode == 1
    assert f"{tmp_path / 'pyproject.toml'} does not exist: run this in" in result.stderr
