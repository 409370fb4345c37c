"""What tests of traces can ask for, here too."""

from tests.platform.observability.tracing.conftest import clean_environment, collector

__all__ = ["clean_environment", "collector"]
