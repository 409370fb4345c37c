"""Visits of the example: most look at a page of items, some create, read and delete one."""

from typing import Any

ITEMS = "/api/v1/items"


def browse(user: Any) -> None:
    user.send("GET", f"{ITEMS}?limit=20")


def write(user: Any) -> None:
    created = user.send("POST", ITEMS, json={"name": "Load test"})
    if created.status_code != 201:
        return  # counted as an error
    item = f"{ITEMS}/{created.json()['id']}"
    user.send("GET", item, name=f"{ITEMS}/ID")
    user.send("DELETE", item, name=f"{ITEMS}/ID")


TASKS = {browse: 8, write: 2}
