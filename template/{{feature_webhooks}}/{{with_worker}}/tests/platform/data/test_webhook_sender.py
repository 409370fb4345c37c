"""What hostile and broken subscribers do to a delivery: nothing beyond its bounds."""

import asyncio
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from standardwebhooks import Webhook

from app.platform.data import webhook_sender
from app.platform.data.public_addresses import Guard
from app.platform.data.webhook_deliveries import Outcome
from app.platform.data.webhook_sender import headers, send
from tests.closing import resetting_server
from tests.webhook_receiver import Receiver, running_receiver

HERE = ["127.0.0.0/8"]
BODY = '{"type":"item.sold","data":{"name":"Ankerwinde Größe 2"}}'
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # pragma: allowlist secret


async def deliver(url: str, guard: Guard | None = None, seconds: float = 5) -> Outcome:
    signed = headers("msg_1", BODY, [SECRET])
    return await send(guard or Guard(HERE), url, BODY, signed, seconds)


class Names:
    """A resolver with a script of answers, the last of which remains."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def test_a_delivery_is_signed_as_standard_webhooks_says() -> None:
    async with running_receiver() as receiver:
        outcome = await deliver(receiver.url)
    assert (outcome.succeeded, outcome.status_code) == (True, 200)
    [received] = receiver.received
    assert received.body == BODY.encode()
    assert received.headers["content-type"] == "application/json"
    assert Webhook(SECRET).verify(received.body, received.headers)
    assert "x-request-id" not in received.headers
    assert "traceparent" not in received.headers


def test_two_secrets_make_two_signatures_of_which_each_is_valid() -> None:
    other = "whsec_" + "A" * 32
    both = headers("msg_1", BODY, [SECRET, other])
    for secret in (SECRET, other):
        assert Webhook(secret).verify(BODY, both)


@pytest.mark.parametrize(
    ("action", "status", "error"),
    [
        ("204", 204, None),
        ("404", 404, "status 404"),
        ("500", 500, "status 500"),
        ("redirect", 302, "a redirect, which is not followed"),
        ("garbage", None, "no response: RemoteProtocolError"),
    ],
)
async def test_what_a_subscriber_answers_is_the_outcome(
    action: str, status: int | None, error: str | None
) -> None:
    async with running_receiver(action=action) as receiver:
        outcome = await deliver(receiver.url)
    assert (outcome.status_code, outcome.error) == (status, error)
    assert len(receiver.received) == 1


async def test_a_subscriber_that_hangs_is_given_up() -> None:
    async with running_receiver(action="hang") as receiver:
        start = time.monotonic()
        outcome = await deliver(receiver.url, seconds=0.2)
    assert outcome.error == "no response in time"
    assert time.monotonic() - start < 3


async def test_a_subscriber_that_answers_bit_by_bit_is_given_up() -> None:
    async with running_receiver(action="trickle") as receiver, asyncio.timeout(30):
        outcome = await deliver(receiver.url, seconds=0.5)
    assert outcome.error == "no response in time"


async def test_a_response_of_a_gigabyte_is_not_read() -> None:
    async with running_receiver(action="huge") as receiver:
        outcome = await deliver(receiver.url)
    assert outcome.succeeded
    assert receiver.sent < 50_000_000  # what fits into the buffers of the system


async def test_a_subscriber_that_is_not_there_is_an_outcome() -> None:
    async with running_receiver() as receiver:
        url = receiver.url
    assert (await deliver(url)).error == "no response: ConnectError"
    assert (await deliver("https://subscriber.invalid/")).error == "the host has no address"


@pytest.mark.parametrize("host", ["a..b", ".example.com", "example.com...", "a" * 64 + ".com"])
async def test_a_host_that_no_resolver_can_be_asked_for_is_an_outcome(host: str) -> None:
    assert (await deliver(f"https://{host}/", Guard())).error == "the host has no address"


async def test_a_subscriber_that_closes_each_connection_is_an_outcome() -> None:
    async with resetting_server() as address:
        for _ in range(50):
            outcome = await deliver(f"http://{address}/")
            assert outcome.error in ("no response: ConnectError", "no response: ReadError")


async def test_a_name_that_is_rebound_is_resolved_once_and_its_checked_address_is_used() -> None:
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    async with running_receiver() as receiver:  # at 127.0.0.1 alone
        guard = Guard(["127.0.0.1/32"], names)
        first = await deliver(f"http://hooks.example.com:{receiver.port}/", guard)
        second = await deliver(f"http://hooks.example.com:{receiver.port}/", guard)
    assert first.succeeded
    assert receiver.received[0].headers["host"] == f"hooks.example.com:{receiver.port}"
    assert second.error == "the host has an address that is not public"
    assert (names.asked, len(receiver.received)) == (2, 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "2130706433"])
async def test_this_machine_is_not_called(host: str) -> None:
    async with running_receiver() as receiver:
        outcome = await deliver(f"https://{host}:{receiver.port}/", Guard())
    assert outcome.error == "the host has an address that is not public"
    assert receiver.received == []


async def test_tls_has_the_name_of_the_url_and_another_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = tls_for("hooks.example.com", tmp_path)
    asked: list[str] = []
    server.sni_callback = lambda _, name, __: asked.append(name)
    monkeypatch.setattr(webhook_sender, "certificates", lambda: client)
    guard = Guard(HERE, Names(["127.0.0.1"]))
    async with running_receiver(server) as receiver:
        good = await deliver(f"https://hooks.example.com:{receiver.port}/", guard)
        other = await deliver(f"https://other.example.com:{receiver.port}/", guard)
    assert good.succeeded
    assert other.error == "no response: ConnectError"
    assert asked == ["hooks.example.com", "other.example.com"]
    assert len(receiver.received) == 1


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with running_receiver() as receiver:
        assert (await deliver(receiver.url)).succeeded


async def test_a_subscriber_may_ask_for_more_time() -> None:
    receiver: Receiver
    async with running_receiver(action="503") as receiver:
        for value, seconds in (("120", 120), ("soon", 0), ("", 0)):
            receiver.retry_after = value
            assert (await deliver(receiver.url)).retry_after == seconds


def tls_for(host: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server with a certificate for ``host``, and a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "server.pem"
    path.write_bytes(private + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    client = ssl.create_default_context(cadata=pem.decode())
    client.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return server, client
