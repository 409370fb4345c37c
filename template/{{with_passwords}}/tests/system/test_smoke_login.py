"""The smoke test's login: a wrong password fails it, and its session ends."""

from pathlib import Path

from tests.system import smoke
from tests.system.serving import Serve


async def test_a_wrong_password_fails_and_a_session_is_ended(serve: Serve, tmp_path: Path) -> None:
    smoked = await smoke.start(serve, tmp_path)
    failed = smoked.run(**{**smoked.credentials, "SMOKE_PASSWORD": "wrong"})
    assert failed.returncode == 1
    assert f"{smoke.USER} could not log in" in failed.stderr
    assert not smoked.called("POST", "/api/v1/auth/logout")
    done = smoked.run(**smoked.credentials)
    assert done.returncode == 0, done.stderr
    smoked.server.until(lambda: smoked.called("POST", "/api/v1/auth/logout"))
