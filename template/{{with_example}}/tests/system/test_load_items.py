"""The load test of the example."""

from pathlib import Path

import httpx2

from tests.actors import sign_in
from tests.system import smoke, test_load
from tests.system.serving import Serve

pytestmark = test_load.pytestmark


async def test_five_seconds_at_1x_are_served_without_errors(serve: Serve, tmp_path: Path) -> None:
    smoked = await smoke.start(serve, tmp_path)
    limits = {"LOAD_SECONDS": "5", "LOAD_P99_MS": "5000"}  # the machine may be busy
    done = test_load.run(smoked.server.url, **smoked.credentials, **limits)
    assert done.returncode == 0, done.stderr + done.stdout
    assert ", 0.00 % errors" in done.stdout
    assert smoked.called("POST", "/api/v1/items")
    async with httpx2.AsyncClient(base_url=smoked.server.url) as client:
        headers = await sign_in(client, smoke.USER)
        assert (await client.get("/api/v1/items", headers=headers)).json()["items"] == []
