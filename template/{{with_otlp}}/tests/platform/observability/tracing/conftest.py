"""Fixtures of the tests of traces."""

import os
from collections.abc import Iterator

import pytest

from tests.platform.observability.tracing.receiver import Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.released.set()
    collector.server.shutdown()
    collector.server.server_close()


@pytest.fixture(autouse=True)
def clean_environment() -> Iterator[None]:
    """The SDK is configured by the environment: restored after each test."""
    before = dict(os.environ)
    for name in [name for name in before if name.startswith("OTEL_")]:
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)
