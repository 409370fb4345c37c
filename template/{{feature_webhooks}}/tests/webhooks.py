"""Signed webhooks, as their senders make them."""

import time
from datetime import UTC, datetime
from uuid import uuid4

from standardwebhooks import Webhook


def signed(
    key: bytes, body: bytes, message_id: str | None = None, *, late: float = 0
) -> dict[str, str]:
    """The headers of a message that was signed ``late`` seconds ago, with a new id by default."""
    message_id = message_id or f"msg_{uuid4().hex}"
    at = datetime.fromtimestamp(int(time.time() - late), UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(key).sign(message_id, at, body.decode()),
    }
