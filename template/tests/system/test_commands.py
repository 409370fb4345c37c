"""The commands, as processes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import URL

from tests.conftest import ROOT


def run(*arguments: str, env: dict[str, str], cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_invalid_environment_starts_nothing() -> None:
    result = run("serve", env={"SECRET_KEY": "change-me", "PORT": "x"})
    assert result.returncode != 0
    assert result.stderr.startswith("Invalid settings; nothing was started:")
    for variable in ("SECRET_KEY", "PORT", "DATABASE_URL", "REDIS_URL"):
        assert f"  {variable}: " in result.stderr
    assert "Traceback" not in result.stderr


def test_serve_refuses_more_connections_than_postgres_allows(environment: dict[str, str]) -> None:
    result = run("serve", env={**environment, "WEB_CONCURRENCY": "500"})
    assert result.returncode != 0
    assert "500 processes x 10 connections = 5000, but Postgres allows" in result.stderr
    assert "Traceback" not in result.stderr


def test_commands_work_from_another_folder(
    create_database: Callable[..., URL], environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.alembic]\nscript_location = "elsewhere"\n')
    (tmp_path / ".env").write_text("LOG_LEVEL=nonsense")
    url = create_database().render_as_string(hide_password=False)
    for command, said in (("migrate", "\nAll migrations are applied."), ("check", "")):
        result = run(command, env={**environment, "DATABASE_URL": url}, cwd=tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
        assert said in f"\n{result.stderr}"


def test_concurrent_migrations_run_once(
    create_database: Callable[..., URL], environment: dict[str, str]
) -> None:
    url = create_database().render_as_string(hide_password=False)
    command = [sys.executable, "-m", "app", "migrate"]
    processes = [
        subprocess.Popen(command, env={**environment, "DATABASE_URL": url}, cwd=ROOT)
        for _ in range(2)
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
