"""Roles: named sets of scopes. Add yours; ``app users grant`` gives them to users."""

from app.platform.auth.grants import ADMIN

ROLES: dict[str, frozenset[str]] = {
    ADMIN: frozenset({"admin"}),
}
