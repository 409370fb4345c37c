"""Fixtures of the tests of traces."""

from tests.platform.observability.tracing.conftest import clean_environment, collector

__all__ = ["clean_environment", "collector"]
