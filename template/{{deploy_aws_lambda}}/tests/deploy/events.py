"""Complete AWS events for the requests of a test."""

import json
from base64 import b64encode
from typing import Any

from app.platform.server.function.events import body_of

Event = dict[str, Any]


def http_api(
    method: str,
    path: str,
    *,
    body: bytes | dict[str, Any] | None = None,
    query: str = "",
    headers: dict[str, str] | None = None,
    cookies: list[str] | None = None,
    stage: str = "$default",
) -> Event:
    """Return an event of an API Gateway HTTP API, payload format 2.0."""
    event: Event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {
            "accept": "*/*",
            "host": "api.example.com",
            "user-agent": "test",
            "x-amzn-trace-id": "Root=1-5759e988-bd862e3fe1be46a994272793",
            "x-forwarded-for": "203.0.113.7",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
            **(headers or {}),
        },
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "r3pmxmplak",
            "domainName": "api.example.com",
            "domainPrefix": "api",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.7",
                "userAgent": "test",
            },
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "$default",
            "stage": stage,
            "time": "10/Mar/2026:05:16:23 +0000",
            "timeEpoch": 1773119783000,
        },
        "isBase64Encoded": False,
    }
    if cookies:
        event["cookies"] = cookies
    if isinstance(body, dict):
        event["headers"]["content-type"] = "application/json"
        event["body"] = json.dumps(body)
    elif body is not None:
        event["body"], event["isBase64Encoded"] = b64encode(body).decode(), True
    event["headers"]["content-length"] = str(len(body_of(event)))
    return event


def function_url(method: str, path: str, **more: Any) -> Event:
    """Return an event of a function URL: the same format, another domain."""
    event = http_api(method, path, **more)
    domain = "abcdefg.lambda-url.eu-west-1.on.aws"
    event["requestContext"] |= {
        "accountId": "anonymous",
        "apiId": "abcdefg",
        "authorizer": None,
        "domainName": domain,
        "domainPrefix": "abcdefg",
    }
    event["headers"]["host"] = domain
    return event
