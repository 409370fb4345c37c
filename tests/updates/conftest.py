"""The order of the tests here, which decides how long they take."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the walks, which take longest, so that they run side by side."""
    items.sort(key=lambda item: "test_every_answer_becomes_another" not in item.nodeid)
