"""Secrets, fetched from Secrets Manager when the function starts.

A function can't be given files, and its variables can be read by whoever may look at it. So the
variable ``SECRETS_FROM`` names one secret, JSON with a key for each setting that is one.
"""

import json
import os

import httpx2

from app.platform.base.role import signed

SOURCE = "SECRETS_FROM"
TIMEOUT = 3.0  # seconds; a function has ten to start
ATTEMPTS = 3


class SecretsError(Exception):
    """The secrets can't be had, so the service can't start."""


def load() -> None:
    """Add the secrets to the environment of this process; what is set already stays."""
    if arn := os.environ.get(SOURCE):
        for name, value in _fetch(arn).items():
            os.environ.setdefault(name, value)


def _fetch(arn: str) -> dict[str, str]:
    region = os.environ["AWS_REGION"]
    standard = f"https://secretsmanager.{region}.amazonaws.com"
    url = os.environ.get("AWS_ENDPOINT_URL_SECRETS_MANAGER", standard)
    body = json.dumps({"SecretId": arn})
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "secretsmanager.GetSecretValue",
    }
    headers = signed("secretsmanager", region, url, body, headers)
    with httpx2.Client(
        timeout=TIMEOUT, transport=httpx2.HTTPTransport(retries=ATTEMPTS - 1)
    ) as client:
        try:
            answer = client.post(url, content=body, headers=headers)
        except httpx2.HTTPError as error:
            reason = type(error).__name__
            raise SecretsError(f"Secrets Manager can't be reached: {reason}") from None
    if answer.status_code != 200:
        kind = answer.json().get("__type", answer.status_code)
        raise SecretsError(f"Secrets Manager refuses {arn}: {kind}")
    try:
        found = json.loads(answer.json()["SecretString"])
        return {str(name): str(value) for name, value in found.items()}
    except (KeyError, ValueError, AttributeError):
        raise SecretsError(f"{arn} would be JSON: a text for each name of a setting") from None
