"""Sends one webhook: signed, to a public address, within bounds of time and size."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus

import httpx2
from standardwebhooks import Webhook

from app.platform import about
from app.platform.data.http_client import certificates
from app.platform.data.public_addresses import AddressRefused, Guard, GuardedTransport
from app.platform.data.webhook_deliveries import Outcome


def headers(message_id: str, body: str, secrets: Sequence[str]) -> dict[str, str]:
    """The headers of a message, signed now with each of ``secrets``."""
    now = datetime.now(UTC)
    signatures = [Webhook(secret).sign(message_id, now, body) for secret in secrets]
    return {
        "Content-Type": "application/json",
        "User-Agent": f"{about.NAME}/{about.version()}",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


async def send(
    guard: Guard, url: str, body: str, headers: Mapping[str, str], seconds: float
) -> Outcome:
    """POST a message; any failure is an outcome.

    Only the head of the response is read, and no redirect is followed. It takes at most
    ``seconds`` in total. The errors name no address: subscribers may read them.
    """
    started_at, start = datetime.now(UTC), time.monotonic()
    status: int | None = None
    retry_after = 0.0
    try:
        scheme = httpx2.URL(url).scheme
        transport = GuardedTransport(guard, scheme, certificates())
        async with (
            asyncio.timeout(seconds),
            httpx2.AsyncClient(transport=transport, timeout=seconds, trust_env=False) as client,
            client.stream("POST", url, content=body.encode(), headers=headers) as response,
        ):
            status = response.status_code
            retry_after = _seconds(response.headers.get("retry-after", ""))
    except AddressRefused:
        error: str | None = "the host has an address that is not public"
    except (TimeoutError, httpx2.TimeoutException):
        error = "no response in time"
    except (httpx2.HTTPError, httpx2.InvalidURL) as failure:
        error = f"no response: {type(failure).__name__}"
    except (OSError, UnicodeError):  # of the resolver; UnicodeError: it can't look such a name up
        error = "the host has no address"
    else:
        error = _error(status)
    return Outcome(started_at, time.monotonic() - start, status, error, retry_after)


def _error(status: int) -> str | None:
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return None
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return "a redirect, which is not followed"
    return f"status {status}"


def _seconds(retry_after: str) -> float:
    """The seconds of a ``Retry-After``; 0 for a date."""
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0
