"""Who a caller is, and what one is told who is not believed."""

from dataclasses import dataclass

from app.platform.base.errors import Unauthorized


@dataclass(frozen=True, slots=True)
class User:
    """Who is calling, and what they may do.

    ``credential`` is the id of what they showed to prove it: a session, a key, a token. It is no
    secret.
    """

    id: str
    scopes: frozenset[str]
    credential: str


class NothingShown(Unauthorized):
    """No credential came."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class NotBelieved(Unauthorized):
    """A credential came, and it is not a good one. ``reason``, a word or two, is for the audit."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        self.reason = reason
