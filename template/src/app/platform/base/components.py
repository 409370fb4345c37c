"""Components: modules that set up one concern of the app and own its resources."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import FastAPI

from app.platform.settings import PlatformSettings

AppFactory = Callable[[Any], FastAPI]
Lifespan = Callable[[], AbstractAsyncContextManager[None]]


class Component(Protocol):
    """A module with a ``setup`` function; with ``add_commands(group)`` it also has commands."""

    def setup(self, app: FastAPI, settings: Any) -> Lifespan | None:
        """Add middleware, routes and exception handlers; return what to hold open while serving.

        Called once per process, before the event loop runs: nothing may connect here.
        """


@dataclass(frozen=True)
class CommandContext:
    """The service above the platform, for the platform's commands, by ``click.pass_obj``."""

    get_settings: Callable[[], PlatformSettings]
    create_app: AppFactory
