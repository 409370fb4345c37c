"""Tickets: a name, what it may do and until when, sealed."""

import time
from uuid import NAMESPACE_URL, uuid4, uuid5

from pydantic import BaseModel, ValidationError

from app.platform.auth.identity import InvalidCredentials, User
from app.platform.base.signing import derive_keys, sign, verify
from app.platform.settings import PlatformSettings


class Ticket(BaseModel):
    id: str
    name: str
    scopes: frozenset[str]
    ends: float

    @property
    def user(self) -> User:
        return User(str(uuid5(NAMESPACE_URL, self.name)), self.scopes, self.id)


def write(settings: PlatformSettings, name: str, *scopes: str, ends_in: float | None = None) -> str:
    """Return a sealed ticket; ``ends_in`` seconds."""
    lifetime = settings.ticket_lifetime if ends_in is None else ends_in
    ends = time.time() + lifetime
    ticket = Ticket(id=uuid4().hex, name=name, scopes=frozenset(scopes), ends=ends)
    return sign(derive_keys(settings, "ticket"), ticket.model_dump_json().encode())


def read(settings: PlatformSettings, sealed: str) -> Ticket:
    """Return what is in a ticket; raise ``InvalidCredentials`` unless it is a good one."""
    try:
        payload = verify(derive_keys(settings, "ticket"), sealed)
        ticket = Ticket.model_validate_json(payload)
    except (ValueError, ValidationError):
        raise InvalidCredentials("forged", "This is no ticket.") from None
    if ticket.ends < time.time():
        raise InvalidCredentials("expired", "The ticket is no longer good.")
    return ticket
