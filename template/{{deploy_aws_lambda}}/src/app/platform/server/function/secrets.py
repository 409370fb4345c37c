"""Secrets, fetched from Secrets Manager when the function starts.

A function can't be given files, and its variables can be read by whoever may look at it. So the
variable ``SECRETS_FROM`` names one secret, JSON with a key for each setting that is one.
"""

import json
import os

import httpx2
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

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
    request = _signed(url, region, json.dumps({"SecretId": arn}))
    with httpx2.Client(
        timeout=TIMEOUT, transport=httpx2.HTTPTransport(retries=ATTEMPTS - 1)
    ) as client:
        try:
            answer = client.post(url, content=request.body, headers=dict(request.headers.items()))
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


def _signed(url: str, region: str, body: str) -> AWSRequest:
    """Sign the request with the role of the function; the whole SDK would double the start."""
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "secretsmanager.GetSecretValue",
    }
    request = AWSRequest("POST", url, data=body, headers=headers)
    role = Credentials(
        os.environ["AWS_ACCESS_KEY_ID"],
        os.environ["AWS_SECRET_ACCESS_KEY"],
        os.environ.get("AWS_SESSION_TOKEN"),
    )
    SigV4Auth(role, "secretsmanager", region).add_auth(request)
    return request
