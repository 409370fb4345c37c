"""The smoke test's step of the example: its item is deleted, also when a later step fails."""

from pathlib import Path

import httpx2

from tests.actors import sign_in
from tests.system import smoke
from tests.system.serving import Serve


async def test_no_item_is_left_behind(serve: Serve, tmp_path: Path) -> None:
    smoked = await smoke.start(serve, tmp_path)
    assert smoked.run(**smoked.credentials).returncode == 0
    step = (tmp_path / "deploy/smoke/items.sh").read_text()
    smoked.add_step("items.sh", step.replace('"$item" 200', '"$item" 418'))
    failed = smoked.run(**smoked.credentials)
    assert failed.returncode == 1
    assert "answered with 200 instead of 418" in failed.stderr
    async with httpx2.AsyncClient(base_url=smoked.server.url) as client:
        headers = await sign_in(client, smoke.USER)
        assert (await client.get("/api/v1/items", headers=headers)).json()["items"] == []
    smoked.server.until(lambda: smoked.called("POST", "/api/v1/items"))
