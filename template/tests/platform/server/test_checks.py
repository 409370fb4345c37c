"""What ``app check`` prints and returns for each result of a check."""

import pytest

from app.platform.server import checks
from app.settings import Settings


@pytest.mark.parametrize(
    ("result", "line", "code"),
    [
        ("all is well", "ok  it           all is well (", 0),
        (checks.CheckWarning("rarely intended"), "warning  it           rarely intended", 0),
        (checks.CheckFailed("cannot work"), "failed  it           cannot work", 1),
        (TimeoutError(), "failed  it           no answer within ", 1),
        (OSError("refused\nby it"), "failed  it           OSError: refused\n", 1),
    ],
)
async def test_a_result_is_printed_and_a_failure_fails_the_command(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    result: str | Exception,
    line: str,
    code: int,
) -> None:
    async def check(_: Settings) -> str:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(checks, "CHECKS", {"it": check})
    assert await checks.run_checks(settings) == code
    printed = capsys.readouterr().out
    assert f" {line}" in printed
    assert f"ok  settings     {settings.environment}, " in printed
