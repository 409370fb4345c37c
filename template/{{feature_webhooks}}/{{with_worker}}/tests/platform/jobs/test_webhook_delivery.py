"""Webhooks that are sent: published with the change, tried for days, and given up with notice."""

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from pydantic import BaseModel, SecretStr
from sqlalchemy import delete, func, select, text, update
from standardwebhooks import Webhook

from app.platform.base.errors import Conflict
from app.platform.data import webhook_deliveries, webhook_subscriptions
from app.platform.data.webhook_deliveries import JITTER, RETRY_DELAYS, Outcome, retry_delay
from app.platform.data.webhook_subscriptions import InvalidWebhookUrl, SecretCipher, check_url
from app.platform.data.webhook_tables import (
    WebhookAttempt,
    WebhookDelivery,
    WebhookEvent,
    WebhookSubscription,
)
from app.platform.http import webhook_events
from app.platform.http.webhook_events import Webhooks, webhook_event
from app.platform.jobs import store, webhook_delivery
from app.platform.jobs.webhook_delivery import sweep
from app.settings import Settings
from tests.conftest import client_for
from tests.platform.jobs.conftest import Service, running_service
from tests.webhook_receiver import Receiver, running_receiver

CHANGES = {"webhook_allowed_networks": ["127.0.0.0/8"], "webhook_subscriptions_per_caller": 2}

FIRST = UUID(int=0)  # before every id


class Sale(BaseModel):
    amount: int


@pytest.fixture(scope="module", autouse=True)
def declared() -> Any:
    """Types of events of these tests."""
    known = dict(webhook_events._types)
    yield {name: webhook_event(f"test.{name}", Sale) for name in ("sold", "bought")}
    webhook_events._types.clear()
    webhook_events._types.update(known)


class Sender:
    """Publishes events, and runs the jobs that are due or, later, as if they were."""

    def __init__(self, service: Service, events: Any) -> None:
        self.service = service
        self.events = events
        self.db = service.app.state.db

    async def subscribe(self, url: str, owner: str = "ada", *types: str) -> tuple[UUID, str]:
        async with self.db.transaction() as session:
            row, secret = await webhook_subscriptions.create(
                session, self.service.settings, owner, url, types or ["test.sold"]
            )
        return row.id, secret

    async def publish(self, owner: str = "ada", event: str = "sold", amount: int = 7) -> None:
        async with self.db.transaction() as session:
            webhooks = Webhooks(session, self.service.app.state.enqueue_webhooks)
            await webhooks.publish(self.events[event], Sale(amount=amount), owner=owner)

    async def run(self) -> int:
        """Run every job that is queued, as if its time had come; return how many."""
        async with self.db.transaction() as session:
            queued = select(store.Job.id).where(store.Job.status == "queued")
            ids = list((await session.execute(queued)).scalars())
            await session.execute(update(store.Job).values(due_at=func.now()))
        for job_id in ids:
            await self.service.runner.run(job_id)
            assert (await self.service.status(job_id)).status == "succeeded"
        return len(ids)

    async def deliveries(self) -> list[Any]:
        async with self.db.transaction() as session:
            return list((await session.execute(webhook_deliveries.select_deliveries())).all())

    async def subscription(self) -> WebhookSubscription:
        async with self.db.transaction() as session:
            found: WebhookSubscription = (
                await session.execute(select(WebhookSubscription))
            ).scalar_one()
            return found

    async def change(self, **values: Any) -> None:
        async with self.db.transaction() as session:
            await session.execute(update(WebhookSubscription).values(values))

    async def age(self, days: float) -> None:
        """Let the subscription fail for ``days``, without a pause."""
        await self.change(
            failing_since=func.now() - timedelta(days=days), failures=1, paused_until=None
        )


@pytest.fixture
async def sender(module_settings: Settings, declared: Any) -> AsyncIterator[Sender]:
    async with running_service(module_settings.model_copy(update=CHANGES)) as service:
        async with service.app.state.db.transaction() as session:
            for table in (store.Job, WebhookEvent, WebhookSubscription):
                await session.execute(delete(table))
        yield Sender(service, declared)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with running_receiver() as receiver:
        yield receiver


async def test_an_event_reaches_its_owners_subscriptions_to_its_type(
    sender: Sender, receiver: Receiver
) -> None:
    _, secret = await sender.subscribe(receiver.url)
    await sender.subscribe(f"{receiver.url}/other-type", "ada", "test.bought")
    await sender.subscribe(f"{receiver.url}/other-owner", "bob")
    await sender.publish()
    assert await sender.run() == 1
    [received] = receiver.received
    message = json.loads(received.body)
    assert (message["type"], message["data"]) == ("test.sold", {"amount": 7})
    assert Webhook(secret).verify(received.body, received.headers)
    [delivery] = await sender.deliveries()
    assert (delivery.status, delivery.attempts, delivery.status_code) == ("delivered", 1, 200)
    assert received.headers["webhook-id"] == f"msg_{delivery.event_id.hex}"


async def test_an_event_of_a_transaction_that_rolls_back_is_not_sent(
    sender: Sender, receiver: Receiver
) -> None:
    await sender.subscribe(receiver.url)

    async def fail() -> None:
        async with sender.db.transaction() as session:
            webhooks = Webhooks(session, sender.service.app.state.enqueue_webhooks)
            await webhooks.publish(sender.events["sold"], Sale(amount=1), owner="ada")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert (await sender.run(), await sender.deliveries(), receiver.received) == (0, [], [])


async def test_an_event_that_nobody_subscribes_to_is_not_stored(sender: Sender) -> None:
    await sender.publish()
    async with sender.db.transaction() as session:
        assert (await session.execute(select(func.count(WebhookEvent.id)))).scalar_one() == 0


async def test_a_failed_delivery_is_tried_for_days_with_one_id_and_is_dead_then(
    sender: Sender, receiver: Receiver
) -> None:
    await sender.subscribe(receiver.url)
    await sender.publish()
    receiver.action = "500"
    attempts = len(RETRY_DELAYS) + 1
    for n in range(attempts):
        [delivery] = await sender.deliveries()
        assert (delivery.status, delivery.attempts) == ("pending", n)
        await sender.change(paused_until=None)
        await sender.run()
    assert await sender.run() == 0
    [dead] = await sender.deliveries()
    assert (dead.status, dead.attempts, dead.error) == ("dead", attempts, "status 500")
    assert len({each.headers["webhook-id"] for each in receiver.received}) == 1
    assert len(receiver.received) == attempts
    async with sender.db.transaction() as session:
        log = await session.execute(webhook_deliveries.select_attempts("ada", dead.id))
        assert [row.status_code for row in log] == [500] * attempts


async def test_a_dead_delivery_can_be_replayed_with_its_id(
    sender: Sender, receiver: Receiver
) -> None:
    await sender.subscribe(receiver.url)
    await sender.publish()
    async with sender.db.transaction() as session:
        await session.execute(update(WebhookDelivery).values(status="dead", attempts=10))
    assert await sender.run() == 1
    assert receiver.received == []  # the job of an attempt that is over
    async with sender.db.transaction() as session:
        ids = await webhook_deliveries.replay(session, "ada")
        await sender.service.app.state.enqueue_webhooks(session, ids)
        assert await webhook_deliveries.replay(session, "ada") == []
    await sender.run()
    [delivery] = await sender.deliveries()
    assert delivery.status == "delivered"
    assert receiver.received[0].headers["webhook-id"] == f"msg_{delivery.event_id.hex}"


def test_retries_take_three_days_and_no_two_take_the_same_time() -> None:
    assert 2.5 < sum(RETRY_DELAYS) / 86_400 < 3.5
    for attempt, seconds in enumerate(RETRY_DELAYS):
        delays = {retry_delay(attempt) for _ in range(20)}
        assert len(delays) > 1
        for delay in delays:
            assert delay is not None
            assert seconds * (1 - JITTER) <= delay <= seconds * (1 + JITTER)
    assert retry_delay(len(RETRY_DELAYS)) is None
    assert retry_delay(0, retry_after=60) == 60
    assert (retry_delay(0, retry_after=1e9) or 0) <= 3600


async def test_a_subscriber_that_fails_gets_one_attempt_at_a_time_and_others_all(
    sender: Sender, receiver: Receiver
) -> None:
    async with running_receiver(action="500") as failing:
        await sender.subscribe(failing.url)
        await sender.subscribe(receiver.url, "bob")
        for _ in range(6):
            await sender.publish("ada")
            await sender.publish("bob")
        await sender.run()
    assert len(failing.received) == webhook_subscriptions.PAUSE_FROM
    assert len(receiver.received) == 6
    deliveries = await sender.deliveries()
    waiting = [each for each in deliveries if each.status == "pending"]
    assert [each for each in deliveries if each.next_attempt_at] == waiting
    assert sorted(each.attempts for each in waiting) == [0, 0, 0, 1, 1, 1]
    async with sender.db.transaction() as session:
        queued = select(func.count()).where(
            store.Job.status == "queued", store.Job.due_at > store.Job.created_at
        )
        assert (await session.execute(queued)).scalar_one() == 6


async def test_a_subscriber_in_a_network_of_ours_gets_nothing_unless_it_is_allowed(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sender.subscribe(receiver.url)
    await sender.publish()
    monkeypatch.setattr(sender.service.settings, "webhook_allowed_networks", [])
    await sender.run()
    [delivery] = await sender.deliveries()
    assert (delivery.status, delivery.attempts) == ("pending", 1)
    assert delivery.error.startswith("the URL is no longer accepted")
    assert receiver.received == []


async def test_a_url_that_is_no_longer_accepted_gets_nothing_and_fails_like_any_other(
    sender: Sender, receiver: Receiver
) -> None:
    await sender.subscribe(receiver.url)
    for _ in range(webhook_subscriptions.PAUSE_FROM):
        await sender.publish()
    await sender.change(url=f"{receiver.url}#part")
    await sender.run()
    assert receiver.received == []
    [error] = {each.error for each in await sender.deliveries()}
    assert error.startswith("the URL is no longer accepted: The URL has credentials, a fragment")
    assert (await sender.subscription()).paused_until is not None
    await sender.age(days=5.1)
    await sender.run()
    reason = "no delivery has succeeded for 5 days"
    assert (await sender.subscription()).disabled_reason == reason


async def test_a_success_ends_the_pause(sender: Sender, receiver: Receiver) -> None:
    await sender.subscribe(receiver.url)
    await sender.change(failures=5, paused_until=func.now() - timedelta(seconds=1))
    await sender.publish()
    await sender.run()
    subscription = await sender.subscription()
    assert (subscription.failures, subscription.paused_until) == (0, None)
    assert subscription.failing_since is None


async def test_a_subscription_that_failed_for_days_is_disabled_with_notice(
    sender: Sender, receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    await sender.subscribe(receiver.url)
    for _ in range(2):
        await sender.publish()
    receiver.action = "500"
    await sender.age(days=4.9)
    await sender.run()
    assert (await sender.subscription()).disabled_at is None
    await sender.age(days=5.1)
    await sender.run()
    subscription = await sender.subscription()
    assert subscription.disabled_reason == "no delivery has succeeded for 5 days"
    notices = [line for line in capfd.readouterr().out.splitlines() if "_disabled" in line]
    assert [json.loads(line)["event"] for line in notices] == [
        "audit.webhook_subscription_disabled"
    ]
    sent = len(receiver.received)
    await sender.publish()  # stored for nobody
    await sender.run()
    assert len(receiver.received) == sent
    assert {each.status for each in await sender.deliveries()} == {"dead"}


async def test_a_subscription_that_answers_410_is_disabled_at_once(
    sender: Sender, receiver: Receiver
) -> None:
    subscription_id, _ = await sender.subscribe(receiver.url)
    await sender.publish()
    receiver.action = "410"
    await sender.run()
    assert (await sender.subscription()).disabled_reason == "410 Gone"
    assert [each.status for each in await sender.deliveries()] == ["dead"]
    async with sender.db.transaction() as session:
        await webhook_subscriptions.enable(session, "ada", subscription_id)
    receiver.action = "200"
    await sender.publish()
    await sender.run()
    assert [each.status for each in await sender.deliveries()] == ["delivered", "dead"]


async def test_metrics_report_outcomes_waiting_deliveries_and_disabled_subscriptions(
    sender: Sender, receiver: Receiver
) -> None:
    await sender.subscribe(receiver.url)
    for action in ("200", "500", "410"):
        receiver.action = action
        await sender.publish()
        await sender.run()
    await sender.subscribe(receiver.url, "bob")
    await sender.publish("bob")
    pending = update(WebhookDelivery).where(WebhookDelivery.status == "pending")
    async with sender.db.transaction() as session:
        lost = WebhookDelivery.next_attempt_at - timedelta(seconds=1000)
        await session.execute(pending.values(next_attempt_at=lost))
    async with client_for(sender.service.app) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("webhook_"))
    outcomes = {
        outcome: values[f'webhook_deliveries_total{{outcome="{outcome}"}}']
        for outcome in ("delivered", "retried", "dead")
    }
    # The delivery that was retried is dead as well, once 410 has ended the subscription.
    assert outcomes == {"delivered": "1.0", "retried": "1.0", "dead": "2.0"}
    assert values["webhook_subscriptions_disabled"] == "1.0"
    assert 1000 <= float(values["webhook_oldest_due_seconds"]) < 1100


async def test_a_rotated_secret_overlaps_and_then_ends(sender: Sender, receiver: Receiver) -> None:
    subscription_id, old = await sender.subscribe(receiver.url)
    async with sender.db.transaction() as session:
        new = await webhook_subscriptions.rotate_secret(
            session, sender.service.settings, "ada", subscription_id
        )
    await sender.publish()
    await sender.run()
    await sender.change(previous_secret_ends_at=func.now())
    await sender.publish()
    await sender.run()
    both, one = receiver.received
    for secret in (old, new):
        assert Webhook(secret).verify(both.body, both.headers)
    assert Webhook(new).verify(one.body, one.headers)
    assert one.headers["webhook-signature"].count("v1,") == 1


def rotation(settings: Settings) -> dict[str, SecretStr]:
    """A new ``SECRET_KEY``, with the former one as its fallback."""
    return {
        "secret_key": SecretStr("b2" * 32),
        "secret_key_fallbacks": SecretStr(settings.secret_key.get_secret_value()),
    }


async def test_secrets_are_encrypted_and_outlive_the_rotation_of_the_secret_key(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_delivery, "BATCH_SIZE", 1)
    secrets = {(await sender.subscribe(receiver.url, owner))[1] for owner in ("ada", "bob")}
    async with sender.db.transaction() as session:
        dump = (await session.execute(text("SELECT * FROM webhook_subscriptions"))).all()
    assert not any(secret.removeprefix("whsec_") in str(dump) for secret in secrets)
    settings = sender.service.settings
    rotated = settings.model_copy(update=rotation(settings))
    async with running_service(rotated) as service:
        await service.runner.run((await service.enqueue(sweep)).id)
    without = SecretCipher(rotated.model_copy(update={"secret_key_fallbacks": SecretStr("")}))
    async with sender.db.transaction() as session:
        stored = (await session.scalars(select(WebhookSubscription.secret))).all()
    assert {without.decrypt(each) for each in stored} == secrets


async def test_secrets_are_renewed_in_batches_while_deliveries_go_on(
    sender: Sender, receiver: Receiver
) -> None:
    ids = sorted([(await sender.subscribe(receiver.url, owner))[0] for owner in ("ada", "bob")])
    locked = select(WebhookSubscription.id)
    settings = sender.service.settings
    async with sender.db.transaction() as session, sender.db.engine.begin() as other:
        for after, last in ((FIRST, ids[0]), (ids[0], ids[1]), (ids[1], None)):
            renewed = await webhook_subscriptions.renew_secrets(session, settings, after, 1)
            assert renewed == last
        await other.execute(locked.with_for_update(nowait=True))  # none is locked
    rotated = settings.model_copy(update=rotation(settings))
    async with sender.db.transaction() as session, sender.db.engine.begin() as other:
        await webhook_subscriptions.renew_secrets(session, rotated, FIRST, 10)
        # As the foreign key of a new delivery locks them.
        await other.execute(locked.with_for_update(nowait=True, read=True, key_share=True))


async def test_a_caller_has_so_many_subscriptions_and_no_more(
    sender: Sender, receiver: Receiver
) -> None:
    for _ in range(2):
        await sender.subscribe(receiver.url)
    with pytest.raises(Conflict, match="2 subscriptions already"):
        await sender.subscribe(receiver.url)
    await sender.subscribe(receiver.url, "bob")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "https://",
        "https://user:password@example.com/",  # pragma: allowlist secret
        "https://example.com/#part",
        "https://example.com:22/",
        "https://example.com:0/",
        "https://example.com:1023/",
        "https://example.com:99999/",
        "https://example.com/ x",
        "https://exämple.com/",
        "https://example..com/",
        "https://.example.com/",
        f"https://{'x' * 64}.example.com/",
        "https://127.0.0.1/",
        "https://169.254.169.254/latest",
        "https://[::ffff:10.0.0.1]/",
        f"https://example.com/{'x' * 2000}",
        "https://example.com/\n",
    ],
)
def test_a_url_that_can_not_be_delivered_to_is_refused(url: str) -> None:
    with pytest.raises(InvalidWebhookUrl):
        check_url(url, [])


def test_a_url_of_an_allowed_network_may_be_without_tls() -> None:
    assert check_url("http://10.1.0.7:8080/hook", ["10.1.0.0/16"])
    assert check_url("http://10.1.0.7:80/hook", ["10.1.0.0/16"])
    for port in (443, 1024, 8443):
        assert check_url(f"https://example.com:{port}/hook?a=b", [])
    assert check_url("https://example.com./", [])


def test_a_type_of_events_has_a_name_with_a_dot() -> None:
    for name in ("sold", "Item.Sold", "webhook.ping"):
        with pytest.raises(ValueError, match="not a type of events"):
            webhook_event(name, Sale)


async def test_the_sweep_finds_lost_deliveries_and_deletes_old_events(
    sender: Sender, receiver: Receiver
) -> None:
    await sender.subscribe(receiver.url)
    for _ in range(2):
        await sender.publish()
    await sender.run()
    await sender.publish()
    async with sender.db.transaction() as session:
        for table, column in ((WebhookEvent, "created_at"), (WebhookDelivery, "next_attempt_at")):
            earlier = {column: getattr(table, column) - timedelta(days=40)}
            await session.execute(update(table).values(earlier))
        await session.execute(delete(store.Job))  # as if Postgres had been restored
    job = await sender.service.enqueue(sweep)
    await sender.service.runner.run(job.id)
    # Two old events, and the delivery that was lost.
    assert (await sender.service.status(job.id)).result == 3
    await sender.run()
    assert [each.status for each in await sender.deliveries()] == ["delivered"]
    assert len(receiver.received) == 3
    async with sender.db.transaction() as session:
        attempts = select(func.count()).select_from(WebhookAttempt)
        assert (await session.execute(attempts)).scalar_one() == 1


async def test_the_sweep_leaves_rows_that_another_transaction_holds(
    sender: Sender, receiver: Receiver
) -> None:
    await sender.subscribe(receiver.url)
    for _ in range(2):
        await sender.publish()
    async with sender.db.transaction() as session:
        earlier = WebhookDelivery.next_attempt_at - timedelta(days=40)
        await session.execute(update(WebhookDelivery).values(next_attempt_at=earlier))
    async with sender.db.engine.begin() as other, sender.db.transaction() as session:
        await other.execute(select(WebhookDelivery.id).limit(1).with_for_update())
        await session.execute(text("SET LOCAL lock_timeout = '1s'"))
        assert len(await webhook_deliveries.overdue(session, 10)) == 1
    await sender.run()
    async with sender.db.transaction() as session:
        earlier = WebhookEvent.created_at - timedelta(days=40)
        await session.execute(update(WebhookEvent).values(created_at=earlier))
    async with sender.db.engine.begin() as other, sender.db.transaction() as session:
        await other.execute(select(WebhookEvent.id).limit(1).with_for_update())
        await session.execute(text("SET LOCAL lock_timeout = '1s'"))
        assert await webhook_deliveries.sweep(session, 30, 10) == 1


async def test_deliveries_of_an_owner_are_read_without_those_of_others(
    sender: Sender, receiver: Receiver
) -> None:
    await sender.subscribe(receiver.url)
    await sender.publish()
    others = """
        WITH subscription AS (
            INSERT INTO webhook_subscriptions
                (id, owner, url, event_types, secret, created_at, failures)
            SELECT gen_random_uuid(), 'owner ' || number, '', '{}', '', now(), 0
            FROM generate_series(1, 200) number RETURNING id, owner
        ),
        event AS (
            INSERT INTO webhook_events (id, owner, type, payload, created_at)
            SELECT gen_random_uuid(), owner, 'test.sold', '{}', now()
            FROM subscription, generate_series(1, 25) RETURNING id, owner
        )
        INSERT INTO webhook_deliveries
            (id, event_id, subscription_id, status, attempts, created_at)
        SELECT gen_random_uuid(), event.id, subscription.id, 'delivered', 1, now()
        FROM event JOIN subscription USING (owner)
    """
    analyze = "ANALYZE webhook_subscriptions, webhook_events, webhook_deliveries"
    mine = webhook_deliveries.select_deliveries("ada").limit(50)
    async with sender.db.engine.connect() as connection:  # which rolls back
        for statement in (others, analyze):
            await connection.execute(text(statement))
        assert len((await connection.execute(mine)).all()) == 1
        query = mine.compile(sender.db.engine, compile_kwargs={"literal_binds": True})
        plan = (await connection.execute(text(f"EXPLAIN {query}"))).scalars().all()
    assert not re.search("Seq Scan on webhook_(deliveries|events)", "\n".join(plan))


async def test_the_result_of_an_attempt_that_is_not_the_deliverys_last_changes_nothing(
    sender: Sender, receiver: Receiver
) -> None:
    """Another worker made it as well: its subscription may be disabled by now, or deleted."""
    await sender.subscribe(receiver.url)
    await sender.publish()
    await sender.run()
    [before] = await sender.deliveries()
    gone = Outcome(datetime.now(UTC), 0.1, status_code=410, error="410 Gone")
    async with sender.db.transaction() as session:
        due = SimpleNamespace(id=before.id, subscription_id=before.subscription_id)
        late = await webhook_deliveries.record(
            session, sender.service.settings, cast("Any", due), 0, gone
        )
        [enabled] = (await session.scalars(select(WebhookSubscription.disabled_at))).all()
        attempts = select(func.count()).select_from(WebhookAttempt)
        assert (await session.execute(attempts)).scalar_one() == 1
    assert (late, enabled) == (None, None)
    [after] = await sender.deliveries()
    assert after.status == before.status == "delivered"
