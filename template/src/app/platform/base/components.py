"""What a part is: a module with ``install``, which may own resources from start-up to shutdown."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from fastapi import FastAPI

from app.settings import Settings

Lifespan = Callable[[], AbstractAsyncContextManager[None]]


class Part(Protocol):
    """A module that installs itself. With ``add_commands(group)`` it has commands, too."""

    def install(self, app: FastAPI, settings: Settings) -> Lifespan | None:
        """Add middleware, routes and error handlers; return what to hold open while serving.

        Called once per process, before the event loop runs: nothing may be connected here.
        """
