"""The caller and their scopes; features import from here alone.

Yours: the roles in ``roles.py``, and the texts of the mails in ``mails``. The accounts themselves
are the platform's: ``app.platform.auth``.

    async def delete_all(user: Annotated[User, require("admin")]) -> None: ...
"""

from pathlib import Path

import click
from fastapi import FastAPI

from app.auth.roles import ROLES
from app.platform.auth import component, user_commands
from app.platform.auth.component import router
from app.platform.auth.current import CurrentUser, User, current_user, require, user_id
from app.platform.data.mail import MailTemplates
from app.settings import Settings

__all__ = [
    "CurrentUser",
    "User",
    "add_commands",
    "current_user",
    "require",
    "router",
    "setup",
    "user_id",
]

MAILS = MailTemplates(Path(__file__).parent / "mails")


def setup(app: FastAPI, settings: Settings) -> None:
    component.setup(app, settings, ROLES, MAILS)


def add_commands(group: click.Group) -> None:
    """Add ``users`` to the service's commands."""
    user_commands.add_commands(group, ROLES, MAILS)
