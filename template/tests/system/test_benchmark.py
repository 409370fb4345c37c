"""The benchmark starts as in production; the server finds in its app what it reads from ours."""

import os
import subprocess
import sys

from tests.conftest import ROOT

CODE = """
import asyncio
import os

import compare

async def main():
    os.environ |= compare.production("http://127.0.0.1:9")
    app = compare.service()
    async with app.router.lifespan_context(app) as state:
        assert state["settings"] is app.state.settings

asyncio.run(main())
"""


def test_the_benchmarks_app_is_the_service(environment: dict[str, str]) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
