"""The authenticated user, and the errors of authentication."""

from dataclasses import dataclass

from app.platform.base.errors import Unauthorized


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated caller.

    ``credential``: the id of the session, key or token that they used; not a secret.
    """

    id: str
    scopes: frozenset[str]
    credential: str


class MissingCredentials(Unauthorized):
    """The request has no credential."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class InvalidCredentials(Unauthorized):
    """The credential is not valid. ``reason``: a word or two for the audit log."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        self.reason = reason
