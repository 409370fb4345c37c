"""A webhook is delivered at least once, with one id, though its worker is killed."""

import asyncio
from uuid import UUID

from sqlalchemy import select
from standardwebhooks import Webhook

from app.platform.data import webhook_deliveries, webhook_subscriptions
from app.platform.data.webhook_tables import WebhookAttempt, WebhookDelivery
from tests.platform.jobs.conftest import TIMEOUT, Service
from tests.system.jobs.conftest import Start
from tests.webhook_receiver import running_receiver

NETWORKS = "127.0.0.0/8"


async def ping(service: Service, url: str) -> tuple[UUID, str]:
    """Subscribe ``url`` and send it a test message; the delivery and the secret."""
    settings = service.settings.model_copy(update={"webhook_allowed_networks": [NETWORKS]})
    async with service.app.state.db.transaction() as session:
        row, secret = await webhook_subscriptions.create(session, settings, "ada", url, ["a.b"])
        delivery = await webhook_deliveries.ping(session, row)
        await service.app.state.enqueue_webhooks(session, [delivery])
    return delivery, secret


async def wait_until_delivered(service: Service, delivery: UUID) -> WebhookDelivery:
    statement = select(WebhookDelivery).where(WebhookDelivery.id == delivery)
    async with asyncio.timeout(TIMEOUT):
        while True:
            async with service.app.state.db.transaction() as session:
                found: WebhookDelivery = (await session.execute(statement)).scalar_one()
            if found.status != "pending":
                return found
            await asyncio.sleep(0.05)


async def test_a_worker_that_is_killed_in_the_middle_of_a_delivery_delivers_it_again(
    service: Service, start: Start
) -> None:
    first = start("worker", WEBHOOK_ALLOWED_NETWORKS=NETWORKS)
    async with running_receiver(action="hang") as receiver:
        delivery, secret = await ping(service, receiver.url)
        async with asyncio.timeout(TIMEOUT):
            await receiver.arrived.wait()
        receiver.action = "200"
        first.kill()
        start("worker", WEBHOOK_ALLOWED_NETWORKS=NETWORKS, WORKER_SCHEDULER="true")
        delivered = await wait_until_delivered(service, delivery)
    assert (delivered.status, delivered.attempts) == ("delivered", 1)
    assert len(receiver.received) == 2
    assert len({each.headers["webhook-id"] for each in receiver.received}) == 1
    for each in receiver.received:
        assert Webhook(secret).verify(each.body, each.headers)
    async with service.app.state.db.transaction() as session:
        log = await session.execute(select(WebhookAttempt.status_code))
        assert list(log.scalars()) == [200]
