"""The tides are counted, by their kind."""

import httpx2


async def test_there_are_none_yet(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/api/v1/tides")).json() == {"high and low": 0}
