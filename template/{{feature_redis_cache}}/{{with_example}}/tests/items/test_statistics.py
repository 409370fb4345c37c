"""The statistics are counted once, for everybody who asks within their TTL."""

import httpx2


async def test_statistics_are_counted_once_for_all_callers(
    alice: httpx2.AsyncClient, bob: httpx2.AsyncClient, queries: list[str]
) -> None:
    await alice.post("/api/v1/items", json={"name": "Anchor"})
    first = await alice.get("/api/v1/items/statistics")
    await bob.post("/api/v1/items", json={"name": "Buoy"})
    second = await bob.get("/api/v1/items/statistics")
    assert first.json() == second.json() == {"items": 1, "owners": 1}
    assert sum("count(" in query for query in queries) == 1
