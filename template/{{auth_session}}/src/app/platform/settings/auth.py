"""Settings of the sessions: those of accounts are all that there are."""

from app.platform.settings.accounts import AccountSettings


class AuthSettings(AccountSettings):
    """How long a session lives is ``session_idle`` and ``session_lifetime``."""
