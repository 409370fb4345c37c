"""deploy/smoke.sh, run against a server process as after a release."""

import os
import shutil
import subprocess
from pathlib import Path

import httpx2

from tests.actors import smoke_credentials
from tests.conftest import ROOT
from tests.system.serving import Serve, Server

USER = "smoke@example.com"


class Smoke:
    """The script in a folder of its own, and the server that it calls."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.credentials: dict[str, str] = {}
        shutil.copytree(ROOT / "deploy", folder / "deploy", dirs_exist_ok=True)

    def add_step(self, name: str, text: str) -> None:
        step = self.folder / "deploy/smoke" / name
        step.parent.mkdir(exist_ok=True)
        step.write_text(text)

    def run(self, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "deploy/smoke.sh", self.server.url],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "SMOKE_TIMEOUT": "20", **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def called(self, method: str, path: str) -> bool:
        """Whether the log has a request that begins like this."""
        return any(
            line.get("method") == method and str(line.get("path")).startswith(path)
            for line in self.server.lines()
        )


async def start(serve: Serve, folder: Path) -> Smoke:
    """Start the service, and create the account of the smoke test."""
    smoke = Smoke(serve("app", "serve", WEB_CONCURRENCY="1", ENVIRONMENT="test"), folder)
    async with httpx2.AsyncClient(base_url=smoke.server.url) as client:
        smoke.credentials = await smoke_credentials(client, USER)
    return smoke
