"""Offers come from the shops that answer; the others are named."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx2
import pytest

from app.items import offers

ITEMS = "/api/v1/items"
# The first bytes of the request, by which a shop knows what to do.
RESPONSES = {"good": b'{"cents": 1250}', "garbage": b"<html>", "negative": b'{"cents": -1}'}


@pytest.fixture
async def shops(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """Shops behind one port, by the first part of their path."""
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        target = head.split(" ")[1]
        asked.append(target)
        shop = target.split("/")[1]
        body = RESPONSES.get(shop, b"")
        status = "200 OK" if body else "500 Internal Server Error"
        lines = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(lines.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    names = ("good", "garbage", "broken", "negative")
    monkeypatch.setattr(offers, "SHOPS", [f"{url}/{name}" for name in names])
    monkeypatch.setattr(offers, "TIMEOUT", 60.0)  # for a busy machine
    yield asked
    server.close()


async def test_offers_are_of_the_shops_that_answer_and_the_others_are_named(
    alice: httpx2.AsyncClient, shops: list[str]
) -> None:
    item = (await alice.post(ITEMS, json={"name": "Anchor & chain"})).json()["id"]
    response = await alice.get(f"{ITEMS}/{item}/offers")
    assert response.status_code == 200, response.text
    [offer] = response.json()["offers"]
    assert (offer["shop"].rsplit("/", 1)[1], offer["cents"]) == ("good", 1250)
    unanswered = [shop.rsplit("/", 1)[1] for shop in response.json()["unanswered"]]
    assert unanswered == ["garbage", "broken", "negative"]
    assert len(shops) == 4
    assert "/good/offers?name=Anchor%20%26%20chain" in [each.replace("+", "%20") for each in shops]


async def test_no_shop_is_asked_for_an_item_that_is_not_yours(
    alice: httpx2.AsyncClient, shops: list[str]
) -> None:
    assert (await alice.get(f"{ITEMS}/{uuid4()}/offers")).status_code == 404
    assert shops == []
