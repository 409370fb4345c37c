"""Signatures of exports to X-Ray's own endpoint: a function has no collector beside it."""

import os

from fastapi import FastAPI
from requests import PreparedRequest, Session
from requests.auth import AuthBase

from app.platform.base import role
from app.platform.observability.tracing import otlp
from app.platform.settings import PlatformSettings


class SignedForXRay(AuthBase):
    """The signature of each export; its timestamp is valid for five minutes."""

    def __init__(self, region: str) -> None:
        self._region = region

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        kept = {"Content-Type": str(request.headers["Content-Type"])}
        body = request.body
        assert isinstance(body, bytes)  # as the exporter sends it, compressed or not
        request.headers.update(role.signed("xray", self._region, str(request.url), body, kept))
        return request


def create_session(region: str) -> Session:
    """A session that signs its requests."""
    session = Session()
    session.auth = SignedForXRay(region)
    return session


def setup(app: FastAPI, settings: PlatformSettings) -> None:
    """Sign exports if the endpoint is X-Ray's; a collector wants no signature."""
    region = os.environ.get("AWS_REGION", "")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_XRAY", f"https://xray.{region}.amazonaws.com")
    if settings.otel_exporter_otlp_endpoint == endpoint:
        otlp.create_session = lambda: create_session(region)
