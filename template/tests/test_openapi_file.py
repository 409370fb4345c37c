"""The committed OpenAPI document, and the settings that say who may read the served one."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli import openapi
from app.platform import about


def check() -> tuple[int, str]:
    result = CliRunner().invoke(openapi, ["--check"])
    return result.exit_code, result.output


def test_openapi_json_is_current() -> None:
    """A new service passes without the file; `make openapi` writes it."""
    code, output = check()
    assert code == 0, output


def test_another_document_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(about, "project_folder", lambda: tmp_path)
    assert check() == (0, "")
    CliRunner().invoke(openapi, ["--output", str(tmp_path / "openapi.json")])
    assert check() == (0, "")
    document = json.loads((tmp_path / "openapi.json").read_text())
    del document["paths"]["/health/live"]
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    code, output = check()
    assert code == 1
    assert "run `make openapi` and commit it" in output
