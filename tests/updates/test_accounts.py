"""Accounts survive another auth style, and the way back, in a database that stays."""

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import generator, suite
from tests.updates import world

INSIDE = Path(__file__).parent / "inside/accounts.py"
KEY = secrets.token_hex(32)  # one and the same: links in mails are signed with it
SERVERS = """
import json, sys
from app.platform.dev.servers import services
with services() as urls:
    print(json.dumps(dict(urls)), flush=True)
    sys.stdin.read()
"""


def test_accounts_survive_another_auth_style_and_the_way_back(tmp_path: Path) -> None:
    template = generator.copy_of_template(tmp_path / "template")
    world.publish(template, "1.0.0")
    given = {"preset": "minimal", "auth": "jwt"}
    service = world.Service.make(template, tmp_path / "service", version="1.0.0", **given)
    with _servers(service) as urls:
        before = _run(service, urls, "create")
        assert [user["email"] for user in before["seen"]["users"] if user["roles"]] == [
            "admin@example.com"
        ]
        assert {event["action"] for event in before["seen"]["events"]} >= {
            *("user_create", "role_grant", "verify_email", "user_disable")
        }
        assert before["seen"]["disabled"] in (401, 403)
        for auth in ("session", "jwt"):
            world.commit(service.folder)
            done = service.update("--vcs-ref", ":current:", auth=auth)
            assert done.returncode == 0, done.stdout
            assert service.answers()["auth"] == auth
            now = _run(service, urls, "read")
            assert now["found"] == before["left"]  # every row of every table
            assert now["seen"] == before["seen"]
            before = now


def _run(service: world.Service, urls: dict[str, str], step: str) -> dict[str, Any]:
    """Run a step inside the service, which migrates at first; return what it wrote."""
    environment = {"ENVIRONMENT": "test", "SECRET_KEY": KEY, "PYTHONPATH": ".", **urls}
    written = service.folder.with_name("written.json")
    done = subprocess.run(
        [*suite.UV, "run", "--quiet", "python", str(INSIDE), step, str(written)],
        cwd=service.folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(written.read_text())
    return found


@contextmanager
def _servers(service: world.Service) -> Iterator[dict[str, str]]:
    """Postgres and Redis, which run until the end; yield their URLs by the variables."""
    command = [*suite.UV, "run", "--quiet", "python", "-c", SERVERS]
    with subprocess.Popen(
        command, cwd=service.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        yield json.loads(process.stdout.readline())
        # `Popen` closes its input, and with that the servers end.
