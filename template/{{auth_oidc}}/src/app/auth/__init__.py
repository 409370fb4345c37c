"""The caller and their scopes; features import from here alone.

Callers authenticate with access tokens of a provider; ``app.platform.auth`` verifies them.

    async def delete_all(user: Annotated[User, require("admin")]) -> None: ...
"""

from app.platform.auth.component import router, setup
from app.platform.auth.current import CurrentUser, User, current_user, require, user_id

__all__ = ["CurrentUser", "User", "current_user", "require", "router", "setup", "user_id"]
