"""Exports to X-Ray's own endpoint: signed with the function's role, sent before the freeze."""

import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.deploy.events import http_api
from tests.deploy.stack import resources
from tests.deploy.test_function import FUNCTION, Start, start, variables

__all__ = ["start", "variables"]

ROLE = Credentials("AKIDEXAMPLE", "of-the-role", "of-the-moment")


class XRay(ThreadingHTTPServer):
    """A stand-in for X-Ray: it accepts exports with a valid signature, and keeps their spans."""

    daemon_threads = True

    def __init__(self) -> None:
        self.spans: list[str] = []
        self.refused: list[dict[str, str]] = []
        xray = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                """No log."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                accepted = xray.is_signed(self.path, dict(self.headers), body)
                if accepted:
                    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                        for scope in resource.scope_spans:
                            xray.spans.extend(span.name for span in scope.spans)
                else:
                    xray.refused.append(dict(self.headers))
                self.send_response(200 if accepted else 403)
                self.end_headers()

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        Thread(target=self.serve_forever, daemon=True).start()

    def is_signed(self, path: str, headers: dict[str, str], body: bytes) -> bool:
        """Whether the signature is the role's, and of this body."""
        if "Authorization" not in headers:
            return False
        _, scope, signed, signature = headers["Authorization"].replace(",", "").split()
        names = signed.removeprefix("SignedHeaders=").split(";")
        covered = {name: value for name, value in headers.items() if name.lower() in names}
        request = AWSRequest("POST", f"{self.url}{path}", data=body, headers=covered)
        request.context["timestamp"] = headers["X-Amz-Date"]
        signer = SigV4Auth(ROLE, "xray", "eu-west-1")
        expected = signer.signature(
            signer.string_to_sign(request, signer.canonical_request(request)), request
        )
        assert scope.endswith("/eu-west-1/xray/aws4_request")
        return signature == f"Signature={expected}"


@pytest.fixture
def xray() -> Iterator[XRay]:
    with XRay() as xray:
        yield xray
        xray.shutdown()


def role(**changes: str | None) -> dict[str, str | None]:
    """The variables by which Lambda gives a function its role."""
    return {
        "AWS_ACCESS_KEY_ID": ROLE.access_key,
        "AWS_SECRET_ACCESS_KEY": ROLE.secret_key,
        "AWS_SESSION_TOKEN": ROLE.token,
        "OTEL_TRACES_SAMPLER_ARG": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "3600000",  # the batch would be exported in an hour
        **changes,
    }


def test_x_ray_has_the_spans_of_a_request_before_its_response_is_returned(
    start: Start, xray: XRay
) -> None:
    own = {"OTEL_EXPORTER_OTLP_ENDPOINT": xray.url, "AWS_ENDPOINT_URL_XRAY": xray.url}
    function = start(**role(**own))
    for _ in range(2):
        xray.spans.clear()
        assert function.invoke(http_api("GET", "/test/seen"))["statusCode"] == 200
        assert "GET /test/seen" in xray.spans, function.log
    assert xray.refused == []


def test_app_check_signs_its_span_as_the_function_does(
    variables: dict[str, str], xray: XRay
) -> None:
    own = {"OTEL_EXPORTER_OTLP_ENDPOINT": xray.url, "AWS_ENDPOINT_URL_XRAY": xray.url}
    given = {name: value for name, value in (variables | role(**own)).items() if value is not None}
    output = subprocess.run(
        [sys.executable, "-m", "app", "check"], env=given, capture_output=True, text=True
    ).stdout
    assert "a span was accepted" in output
    assert xray.spans == ["app check"]
    assert xray.refused == []


def test_a_collector_gets_no_signature(start: Start, xray: XRay) -> None:
    function = start(**role(OTEL_EXPORTER_OTLP_ENDPOINT=xray.url))
    function.invoke(http_api("GET", "/test/seen"))
    assert xray.refused
    assert not [headers for headers in xray.refused if "Authorization" in headers]


def test_x_ray_that_refuses_does_not_delay_the_response(start: Start, xray: XRay) -> None:
    own = {"OTEL_EXPORTER_OTLP_ENDPOINT": xray.url, "AWS_ENDPOINT_URL_XRAY": xray.url}
    function = start(**role(**own, AWS_SECRET_ACCESS_KEY="of another role"))
    assert function.invoke(http_api("GET", "/test/seen"))["statusCode"] == 200
    assert xray.refused
    assert xray.spans == []


def test_the_stack_names_x_ray_and_lets_the_function_send_to_it() -> None:
    endpoint = FUNCTION["Environment"]["Variables"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert endpoint == "!Sub https://xray.${AWS::Region}.amazonaws.com"
    [policy] = resources("AWS::IAM::Role")["FunctionRole"]["Policies"]
    actions = [each["Action"] for each in policy["PolicyDocument"]["Statement"]]
    assert [action for action in actions if "xray" in action] == ["xray:PutTraceSegments"]
