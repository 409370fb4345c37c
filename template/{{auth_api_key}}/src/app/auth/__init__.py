"""The caller and their scopes; features import from here alone.

Callers authenticate with API keys, which are the platform's: ``app.platform.auth``.

    async def delete_all(user: Annotated[User, require("admin")]) -> None: ...
"""

from app.platform.auth.commands import add_commands
from app.platform.auth.component import router, setup
from app.platform.auth.current import CurrentUser, User, current_user, require, user_id

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
