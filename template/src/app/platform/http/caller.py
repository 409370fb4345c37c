"""The caller as the platform's routes need it; whoever mounts them passes the dependency."""

from collections.abc import Awaitable, Callable
from typing import Protocol


class Caller(Protocol):
    """An authenticated caller."""

    @property
    def id(self) -> str: ...


CallerDependency = Callable[..., Awaitable[Caller]]
