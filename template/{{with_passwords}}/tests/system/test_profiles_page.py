"""docs/accounts.md: its feature with data about a user, in a copy of this service."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

PAGE = (ROOT / "docs/accounts.md").read_text()
FILES = dict(re.findall(r"(?ms)^```python\n# (src/\S+)\n(.*?)^```$", PAGE))
USE = """
import asyncio, httpx2
from sqlalchemy import text
from app.main import create_app

AUTH = "/api/v1/auth"
PASSWORD = "correct horse battery"

async def main() -> None:
    app = create_app()
    client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test")
    async with app.router.lifespan_context(app), client:
        async def call(method: str, path: str, expected: int, **options) -> httpx2.Response:
            answer = await client.request(method, path, **options)
            assert answer.status_code == expected, answer.text
            return answer

        ada = {"email": "ada@example.com", "password": PASSWORD}
        await call("POST", f"{AUTH}/register", 201, json=ada)
        form = {"username": ada["email"], "password": PASSWORD}
        token = (await call("POST", f"{AUTH}/LOGIN", 200, data=form)).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"

        names = []
        for name in ("Ada", "Ada L."):
            names.append((await call("GET", "/api/v1/profile", 200)).json()["display_name"])
            await call("PUT", "/api/v1/profile", 200, json={"display_name": name})
        exported = (await call("GET", f"{AUTH}/export", 200)).json()["features"]["profiles"]
        await call("POST", f"{AUTH}/delete-account", 204, json={"password": PASSWORD})
        async with app.state.db.transaction() as session:
            left = await session.scalar(text("SELECT count(*) FROM profiles"))
        print(names, exported, left)

asyncio.run(main())
"""


def test_the_feature_of_the_page_exports_and_deletes_its_data_with_the_account(
    environment: dict[str, str], tmp_path: Path
) -> None:
    ignored = shutil.ignore_patterns("__pycache__")  # other processes are writing to it
    for folder in ("src", "migrations"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for name in ("pyproject.toml", "gunicorn.conf.py", ".squawk.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    api = tmp_path / "src/app/api.py"
    listed = api.read_text().replace(
        "            # Your own routers here.", "            profiles,"
    )
    imported = "from app.profiles.router import router as profiles\n\nVERSIONS"
    api.write_text(listed.replace("\nVERSIONS", imported, 1))

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**environment, "PATH": os.environ["PATH"], "PYTHONPATH": "src"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "block traffic" not in run("-m", "app", "migration", "add profiles")
    run("-m", "app", "migrate")
    login = "login" if "$API/login" in PAGE else "token"
    used = run("-c", USE.replace("LOGIN", login)).splitlines()
    assert "['', 'Ada'] {'display_name': 'Ada L.'} 0" in used
