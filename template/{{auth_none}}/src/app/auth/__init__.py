"""The caller, who is anonymous and has every scope; features import from here alone."""

from app.platform.auth.component import router, setup
from app.platform.auth.current import CurrentUser, User, current_user, require, user_id

__all__ = ["CurrentUser", "User", "current_user", "require", "router", "setup", "user_id"]
