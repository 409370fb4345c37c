"""Settings of sessions: those of accounts."""

from app.platform.settings.accounts import AccountSettings


class AuthSettings(AccountSettings):
    """``session_lifetime`` and ``session_idle_timeout`` bound a session."""
