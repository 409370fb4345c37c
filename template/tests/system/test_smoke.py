"""The smoke test of a release: it logs in, fails when a step fails, and cleans up."""

from pathlib import Path

from tests.system.serving import Serve
from tests.system.smoke import start

STEP = """request GET /health/live 200
undo="DELETE /api/v1/undone"
request GET /health/live 204
"""


async def test_it_logs_in_and_a_failing_step_fails_it_and_is_undone(
    serve: Serve, tmp_path: Path
) -> None:
    smoke = await start(serve, tmp_path)
    done = smoke.run(**smoke.credentials)
    assert done.returncode == 0, done.stderr
    assert f"{smoke.server.url} serves" in done.stderr

    if smoke.credentials:
        nothing = smoke.run()
        assert nothing.returncode == 0, nothing.stderr
        assert "nothing else was checked" in nothing.stderr
        folder = tmp_path / ".secrets"
        folder.mkdir()
        lines = [f"{name}={value}" for name, value in smoke.credentials.items()]
        (folder / "smoke").write_text("\n".join([*lines, ""]))

    smoke.add_step("zz.sh", STEP + 'echo "not reached" >&2\n')
    failed = smoke.run()
    assert failed.returncode == 1
    assert "GET /health/live answered with 200 instead of 204" in failed.stderr
    assert "not reached" not in failed.stderr
    smoke.server.until(lambda: smoke.called("DELETE", "/api/v1/undone"))
