"""The harbour's own feature, part, setting, dependency and job do what they did."""

import httpx2

from app.settings import Settings

ORDERS = "/api/v1/orders"


async def test_what_is_ordered_is_in_the_list(alice: httpx2.AsyncClient) -> None:
    placed = await alice.post(ORDERS, json={"what": "A rope"})
    assert placed.status_code == 201, placed.text
    assert len(placed.json()["code"]) >= 6
    assert (await alice.get(ORDERS)).json() == [placed.json()]


async def test_weighing_is_a_job(alice: httpx2.AsyncClient) -> None:
    started = await alice.post(f"{ORDERS}/weigh")
    assert started.status_code == 202, started.text
    asked = await alice.get(f"/api/v1/jobs/{started.json()['id']}")
    assert asked.status_code == 200
    assert asked.json()["name"] == "orders.weigh"


async def test_each_answer_says_which_harbour_it_is(
    client: httpx2.AsyncClient, settings: Settings
) -> None:
    for path in ("/health/live", "/nowhere"):
        assert (await client.get(path)).headers["X-Harbour"] == settings.harbour == "Bremen"


def test_a_default_that_people_changed_is_theirs(settings: Settings) -> None:
    assert settings.thread_pool_size == 30
