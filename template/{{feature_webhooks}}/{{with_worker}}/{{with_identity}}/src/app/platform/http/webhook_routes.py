"""Routes for subscriptions to webhooks, of their owners alone."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from app.platform.base.errors import BadRequest, Conflict, NotFound, Unauthorized
from app.platform.data import webhook_deliveries, webhook_subscriptions
from app.platform.data.database import ReadSessionDep, SessionDep
from app.platform.data.webhook_subscriptions import MAX_URL_LENGTH
from app.platform.http import audit
from app.platform.http.caller import CallerDependency
from app.platform.http.openapi import Tag
from app.platform.http.problems import responses
from app.platform.http.schemas import STORABLE, RequestModel, ResponseModel
from app.platform.http.versioning import location
from app.platform.http.webhook_events import check_event_types
from app.platform.settings import PlatformSettings

EventType = Annotated[str, STORABLE, Field(max_length=100, examples=["item.published"])]
DeliveryStatus = Literal["pending", "delivered", "dead"]


class SubscriptionCreate(RequestModel):
    url: Annotated[str, STORABLE] = Field(
        max_length=MAX_URL_LENGTH, examples=["https://example.com/webhooks"]
    )
    event_types: list[EventType] = Field(min_length=1, max_length=100)


class SubscriptionRead(ResponseModel):
    id: UUID
    url: str = Field(examples=["https://example.com/webhooks"])
    event_types: list[str] = Field(examples=[["item.published"]])
    created_at: datetime
    failing_since: datetime | None = Field(description="Since when no delivery has succeeded")
    disabled_at: datetime | None
    disabled_reason: str | None


class SubscriptionCreated(SubscriptionRead):
    secret: str = Field(description="Checks signatures; it is not shown again")


class Secret(ResponseModel):
    secret: str = Field(description="Checks signatures; it is not shown again")


class DeliveryRead(ResponseModel):
    id: UUID
    event_id: UUID
    subscription_id: UUID
    type: str = Field(examples=["item.published"])
    status: DeliveryStatus
    attempts: int = Field(examples=[1])
    created_at: datetime
    next_attempt_at: datetime | None
    finished_at: datetime | None
    status_code: int | None = Field(description="Of the last response", examples=[200])
    error: str | None = Field(description="Why the last attempt failed")


class AttemptRead(ResponseModel):
    started_at: datetime
    duration: float = Field(description="Seconds", examples=[0.12])
    status_code: int | None = Field(examples=[200])
    error: str | None


def create_router(current_user: CallerDependency) -> APIRouter:
    """A router for ``/webhooks``. ``current_user``: the dependency that authenticates."""
    router = APIRouter(
        prefix="/webhooks",
        tags=[Tag("webhooks", "Subscriptions to events, and their deliveries.")],
        responses=responses(Unauthorized),
    )
    user = Annotated[Any, Depends(current_user)]
    _add_subscription_routes(router, user)
    _add_delivery_routes(router, user)
    return router


def _add_subscription_routes(router: APIRouter, User: Any) -> None:  # noqa: N803 (a type)
    @router.post("/subscriptions", status_code=201, responses=responses(BadRequest, Conflict))
    async def create_subscription(
        data: SubscriptionCreate,
        user: User,
        session: SessionDep,
        request: Request,
        response: Response,
    ) -> SubscriptionCreated:
        """Send your events of some types to a URL. The response has the secret, once."""
        settings: PlatformSettings = request.app.state.settings
        check_event_types(data.event_types)
        row, secret = await webhook_subscriptions.create(
            session, settings, user.id, data.url, data.event_types
        )
        audit.succeeded(request, "webhook_subscription_created", user.id)
        response.headers["Location"] = location(request, f"/webhooks/subscriptions/{row.id}")
        response.headers["Cache-Control"] = "no-store"
        return SubscriptionCreated.model_validate({**row._mapping, "secret": secret})

    @router.get("/subscriptions")
    async def list_subscriptions(user: User, session: ReadSessionDep) -> list[SubscriptionRead]:
        """Your subscriptions, oldest first."""
        rows = await session.all(webhook_subscriptions.select_subscriptions(user.id))
        return [SubscriptionRead.model_validate(row) for row in rows]

    @router.get("/subscriptions/{subscription_id}", responses=responses(NotFound))
    async def read_subscription(
        subscription_id: UUID, user: User, session: SessionDep
    ) -> SubscriptionRead:
        """One of your subscriptions."""
        row = await webhook_subscriptions.get(session, user.id, subscription_id)
        return SubscriptionRead.model_validate(row)

    @router.delete(
        "/subscriptions/{subscription_id}", status_code=204, responses=responses(NotFound)
    )
    async def delete_subscription(subscription_id: UUID, user: User, session: SessionDep) -> None:
        """Delete a subscription, with its deliveries."""
        await webhook_subscriptions.remove(session, user.id, subscription_id)

    @router.post("/subscriptions/{subscription_id}/enable", responses=responses(NotFound))
    async def enable_subscription(
        subscription_id: UUID, user: User, session: SessionDep
    ) -> SubscriptionRead:
        """Enable a subscription that was disabled, since its deliveries had failed for days."""
        row = await webhook_subscriptions.enable(session, user.id, subscription_id)
        return SubscriptionRead.model_validate(row)

    @router.post("/subscriptions/{subscription_id}/rotate-secret", responses=responses(NotFound))
    async def rotate_subscription_secret(
        subscription_id: UUID,
        user: User,
        session: SessionDep,
        request: Request,
        response: Response,
    ) -> Secret:
        """Replace the secret; for a day, deliveries are signed with the old one, too."""
        settings: PlatformSettings = request.app.state.settings
        secret = await webhook_subscriptions.rotate_secret(
            session, settings, user.id, subscription_id
        )
        audit.succeeded(request, "webhook_secret_rotated", user.id)
        response.headers["Cache-Control"] = "no-store"
        return Secret(secret=secret)

    @router.post(
        "/subscriptions/{subscription_id}/ping", status_code=202, responses=responses(NotFound)
    )
    async def ping_subscription(
        subscription_id: UUID, user: User, session: SessionDep, request: Request
    ) -> None:
        """Send a test message, of the type `webhook.ping`."""
        row = await webhook_subscriptions.get(session, user.id, subscription_id)
        delivery = await webhook_deliveries.ping(session, row)
        await request.app.state.enqueue_webhooks(session, [delivery])


def _add_delivery_routes(router: APIRouter, User: Any) -> None:  # noqa: N803 (a type)
    @router.get("/deliveries")
    async def list_deliveries(
        user: User,
        session: ReadSessionDep,
        subscription: UUID | None = None,
        status: DeliveryStatus | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 50,
    ) -> list[DeliveryRead]:
        """Your newest deliveries, with the response to their last attempt."""
        statement = webhook_deliveries.select_deliveries(user.id, subscription, status)
        rows = await session.all(statement.limit(limit))
        return [DeliveryRead.model_validate(row) for row in rows]

    @router.get("/deliveries/{delivery_id}/attempts")
    async def list_delivery_attempts(
        delivery_id: UUID, user: User, session: ReadSessionDep
    ) -> list[AttemptRead]:
        """The log of one of your deliveries, oldest attempt first."""
        rows = await session.all(webhook_deliveries.select_attempts(user.id, delivery_id))
        return [AttemptRead.model_validate(row) for row in rows]

    @router.post("/deliveries/{delivery_id}/replay", status_code=202, responses=responses(NotFound))
    async def replay_delivery(
        delivery_id: UUID, user: User, session: SessionDep, request: Request
    ) -> None:
        """Make a dead delivery again, with all its attempts and the same id."""
        ids = await webhook_deliveries.replay(session, user.id, delivery_id)
        await request.app.state.enqueue_webhooks(session, ids)
