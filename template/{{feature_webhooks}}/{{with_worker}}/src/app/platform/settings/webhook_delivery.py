"""Settings of the webhooks that this service sends."""

from ipaddress import ip_network

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from app.platform.settings.sources import CommaSeparated


class WebhookDeliverySettings(BaseSettings):
    """Limits of subscriptions and deliveries."""

    webhook_timeout: float = Field(
        15, gt=0, le=45, description="Seconds for a delivery in total, with its DNS query"
    )
    webhook_allowed_networks: CommaSeparated = Field(
        [],
        description="Networks that are not public and may get deliveries all the same, by http, "
        "too: 10.1.0.0/16, comma-separated",
    )
    webhook_subscriptions_per_caller: int = Field(
        20, ge=1, le=1000, description="Subscriptions that a caller may have"
    )
    webhook_disable_after_days: float = Field(
        5, gt=0, le=365, description="Days of failures alone until a subscription is disabled"
    )
    webhook_secret_overlap: int = Field(
        86_400,
        ge=0,
        le=2_592_000,
        description="Seconds that deliveries are signed with the old secret, too, once it was "
        "rotated",
    )
    webhook_retention_days: float = Field(
        30, gt=0, le=3650, description="Days that payloads and the log of their deliveries are kept"
    )

    @field_validator("webhook_allowed_networks")
    @classmethod
    def _are_networks(cls, value: list[str]) -> list[str]:
        for network in value:
            try:
                ip_network(network)
            except ValueError:
                raise ValueError(f"{network} is not a network; write it as 10.1.0.0/16") from None
        return value
