"""Settings of upstreams: the policy of each, and the variables that override it."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_settings import BaseSettings

from app.platform.settings.urls import split_url


def _is_base_url(url: str) -> str:
    parts = split_url(url, "http", "https")
    if not parts or parts.username or parts.query or parts.fragment:
        raise ValueError(
            "write it as https://billing.internal/v1, without credentials, query or fragment"
        )
    return url.rstrip("/")


BaseUrl = Annotated[str, AfterValidator(_is_base_url)]
UpstreamName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$")]


class UpstreamPolicy(BaseModel):
    """The policy of calls to an upstream, in seconds, with the state of one process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: BaseUrl
    timeout: float = Field(5, gt=0, le=3600)  # of a call in total, with its retries
    connect_timeout: float = Field(1, gt=0, le=3600)
    read_timeout: float = Field(5, gt=0, le=3600)  # until more of the response arrives
    write_timeout: float = Field(5, gt=0, le=3600)
    pool_timeout: float = Field(1, gt=0, le=3600)  # until the HTTP client has a connection to use
    max_body: int = Field(10_485_760, ge=1)  # bytes of a response, decompressed

    retries: int = Field(2, ge=0, le=10)
    retry_ratio: float = Field(0.1, ge=0, le=1)  # retries per request, in the long run
    retry_burst: int = Field(10, ge=0, le=10_000)  # retries beyond the ratio
    backoff: float = Field(0.1, ge=0, le=60)  # the longest wait before the first retry
    max_backoff: float = Field(2, ge=0, le=600)

    max_concurrency: int = Field(20, ge=1, le=10_000)  # attempts at once
    max_wait: float = Field(0.5, ge=0, le=60)  # for one of them to end

    breaker_window: int = Field(20, ge=1, le=10_000)  # attempts that are looked at
    breaker_threshold: float = Field(0.5, gt=0, le=1)  # failures among them that open the circuit
    breaker_reset: float = Field(10, gt=0, le=3600)  # open, before probes are let through
    breaker_probes: int = Field(2, ge=1, le=100)  # that have to succeed

    hedge_after: float | None = Field(None, gt=0, le=3600)  # a second GET or HEAD, if no response


class UpstreamOverrides(UpstreamPolicy):
    """The part of a policy that the environment sets."""

    base_url: BaseUrl = ""


class UpstreamsSettings(BaseSettings):
    """Changes to the policies that the code declares."""

    upstreams: dict[UpstreamName, UpstreamOverrides] = Field(
        {},
        description="Changes to upstreams: UPSTREAMS__BILLING__TIMEOUT=2, or all of them as JSON",
    )
