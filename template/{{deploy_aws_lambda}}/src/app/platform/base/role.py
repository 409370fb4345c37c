"""Signatures (SigV4) of requests to AWS, with the role of the function.

The whole SDK would double the start of a function.
"""

import os

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


def signed(
    service: str, region: str, url: str, body: str | bytes, headers: dict[str, str]
) -> dict[str, str]:
    """The ``headers`` of a POST to a service of AWS, and its signature."""
    request = AWSRequest("POST", url, data=body, headers=headers)
    role = Credentials(
        os.environ["AWS_ACCESS_KEY_ID"],
        os.environ["AWS_SECRET_ACCESS_KEY"],
        os.environ.get("AWS_SESSION_TOKEN"),
    )
    SigV4Auth(role, service, region).add_auth(request)
    return dict(request.headers.items())
