"""The function as a separate process with AWS's runtime client, on real servers."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url

from tests.conftest import make_settings, open_connection
from tests.deploy.events import Event, function_url, http_api
from tests.deploy.runtime import PATIENCE, Function, content
from tests.deploy.stack import resources

BYTES = bytes(range(256))
[FUNCTION] = resources("AWS::Serverless::Function").values()
Start = Callable[..., Function]


@pytest.fixture(scope="module")
def variables(
    create_database: Callable[..., URL], migrated_template: str, server_urls: dict[str, str]
) -> dict[str, str]:
    """The variables of the function: those of the stack, with this run's servers."""
    settings = make_settings(create_database(migrated_template), server_urls)
    stack: dict[str, str] = FUNCTION["Environment"]["Variables"]
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        **{name: value for name, value in stack.items() if not value.startswith("!")},
        **server_urls,
        "ENVIRONMENT": "test",
        "SECRET_KEY": settings.secret_key.get_secret_value(),
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "AWS_REGION": "eu-west-1",
    }


@pytest.fixture(scope="module")
def function(variables: dict[str, str]) -> Iterator[Function]:
    """A warm function that the tests here share."""
    function = Function(variables)
    function.started()
    yield function
    function.end()


@pytest.fixture
def start(variables: dict[str, str]) -> Iterator[Start]:
    """Start functions for one test; ``None`` removes a variable."""
    started: list[Function] = []

    def start(module: str = "tests.deploy.routes", **changes: str | None) -> Function:
        given = {name: v for name, v in (variables | changes).items() if v is not None}
        started.append(Function(given, module))
        return started[-1]

    yield start
    for function in started:
        function.end()


@pytest.mark.parametrize("front", [http_api, function_url])
def test_http_apis_and_function_urls_can_invoke_it(
    function: Function, front: Callable[..., Event]
) -> None:
    response = function.invoke(front("GET", "/health/ready"))
    assert response["statusCode"] == 200
    assert response["headers"]["content-type"] == "application/json"
    assert json.loads(content(response))["status"] == "ready"
    assert response["isBase64Encoded"] is False


def test_a_request_arrives_as_it_was_sent(function: Function) -> None:
    event = http_api(
        "GET",
        "/test/a%20b/%C3%A9",
        query="x=1&x=2%26",
        headers={"accept": "a/b,c/d", "x-forwarded-for": "198.51.100.66, 203.0.113.7"},
        cookies=["a=1", "b=2"],
    )
    assert json.loads(content(function.invoke(event))) == {
        "path": "/test/a b/é",
        "query": "x=1&x=2%26",
        "scheme": "https",
        "client": "203.0.113.7",  # the address that AWS saw; headers can be forged
        "cookies": {"a": "1", "b": "2"},
        "a": "1",
        "accept": "a/b,c/d",
    }


def test_the_name_of_a_stage_is_a_prefix_of_the_path(function: Function) -> None:
    response = function.invoke(http_api("GET", "/staging/test/seen", stage="staging"))
    assert json.loads(content(response))["path"] == "/staging/test/seen"
    response = function.invoke(http_api("GET", "/staging/openapi.json", stage="staging"))
    assert json.loads(content(response))["servers"] == [{"url": "/staging"}]


@pytest.mark.parametrize("stage", ["$default", "staging"])
def test_metrics_are_not_public(function: Function, stage: str) -> None:
    prefix = "" if stage == "$default" else f"/{stage}"
    for path in ("/metrics", f"{prefix}/metrics"):
        event = http_api("GET", path, headers={"host": "127.0.0.1:9000"}, stage=stage)
        assert function.invoke(event)["statusCode"] == 404


def test_bytes_go_in_and_out_unchanged(function: Function) -> None:
    response = function.invoke(http_api("POST", "/test/echo", body=BYTES))
    assert response["isBase64Encoded"] is True
    assert content(response) == BYTES


def test_text_stays_text_and_several_headers_and_cookies_stay_several(function: Function) -> None:
    response = function.invoke(http_api("GET", "/test/cookies"))
    assert (response["body"], response["isBase64Encoded"]) == ("é", False)
    assert [cookie.split(";")[0] for cookie in response["cookies"]] == ["one=1", "two=2"]
    assert response["headers"]["vary"] == "A, B, Accept-Encoding"
    assert "set-cookie" not in response["headers"]


@pytest.mark.parametrize(
    ("event", "status", "code"),
    [
        (http_api("GET", "/api/v1/nothing"), 404, "not_found"),
        (http_api("DELETE", "/test/seen"), 405, "method_not_allowed"),
        (http_api("POST", "/test/echo", body=b"x" * 1_100_000), 413, "content_too_large"),
        (http_api("GET", "/test/fail"), 500, "internal_error"),
    ],
)
def test_errors_are_problems(function: Function, event: Event, status: int, code: str) -> None:
    response = function.invoke(event)
    assert response["statusCode"] == status
    assert response["headers"]["content-type"] == "application/problem+json"
    problem = json.loads(content(response))
    assert (problem["status"], problem["code"]) == (status, code)
    assert "hunter2" not in response["body"]


def test_a_slow_request_gets_504_before_lambda_times_out(function: Function) -> None:
    response = function.invoke(http_api("GET", "/test/slow"), seconds=8)
    assert response["statusCode"] == 504
    assert json.loads(content(response))["code"] == "timeout"
    assert function.invoke(http_api("GET", "/health/live"))["statusCode"] == 200


def test_nothing_runs_after_an_event_is_handled(function: Function) -> None:
    response = function.invoke(http_api("GET", "/test/behind"))
    assert json.loads(content(response)) == "done"
    os.kill(function.process.pid, signal.SIGSTOP)
    try:
        until = time.monotonic() + PATIENCE
        while "task finished" not in function.log and time.monotonic() < until:
            time.sleep(0.05)  # the line is written, but may not be read here yet
    finally:
        os.kill(function.process.pid, signal.SIGCONT)
    assert "task finished" in function.log


def test_a_background_task_that_never_ends_does_not_prevent_the_response(
    function: Function,
) -> None:
    response = function.invoke(http_api("GET", "/test/background"), seconds=8)
    assert (response["statusCode"], json.loads(content(response))) == (200, "done")


def test_each_request_is_logged_before_the_freeze(function: Function) -> None:
    event = http_api("GET", "/test/seen", headers={"x-request-id": "logged-request"})
    assert function.invoke(event)["headers"]["x-request-id"] == "logged-request"
    os.kill(function.process.pid, signal.SIGSTOP)
    try:
        until = time.monotonic() + PATIENCE
        while "logged-request" not in function.log and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        os.kill(function.process.pid, signal.SIGCONT)
    assert '"request_id":"logged-request"' in function.log


def test_other_events_are_refused(function: Function) -> None:
    function.send({"version": "0", "source": "aws.events", "detail-type": "Scheduled Event"})
    path, error = function.result()
    assert path.endswith("/error")
    assert error["errorType"] == "NotARequest"
    assert function.invoke(http_api("GET", "/health/live"))["statusCode"] == 200


async def test_a_thawed_function_reconnects(start: Start, variables: dict[str, str]) -> None:
    function = start()
    before = json.loads(content(function.invoke(http_api("GET", "/test/database"))))
    assert json.loads(content(function.invoke(http_api("GET", "/test/cache")))) == "thawed"
    os.kill(function.process.pid, signal.SIGSTOP)
    url = make_url(variables["DATABASE_URL"])
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
    async with open_connection(url.set(database="postgres")) as connection:
        ended = await connection.execute(text(end), {"name": url.database})
        assert ended.all()
    with Redis.from_url(variables["REDIS_URL"]) as redis:
        redis.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(1)
    os.kill(function.process.pid, signal.SIGCONT)
    response = function.invoke(http_api("GET", "/test/database"))
    assert response["statusCode"] == 200, function.log
    after = json.loads(content(response))
    assert after["process"] == before["process"]
    assert after["connection"] != before["connection"]
    assert json.loads(content(function.invoke(http_api("GET", "/test/cache")))) == "thawed"


def test_sigterm_stops_every_component(start: Start) -> None:
    function = start()
    function.invoke(http_api("GET", "/test/database"))
    function.started()
    function.process.send_signal(signal.SIGTERM)
    assert function.process.wait(PATIENCE) == 0
    assert "components stopped" in function.logged()


def test_sigterm_during_an_event_stops_every_component_after_it(start: Start) -> None:
    function = start()
    function.send(http_api("GET", "/test/terminated"))
    assert function.process.wait(PATIENCE) == 0
    logged = function.logged()
    assert 0 < logged.find("the work is done") < logged.find("components stopped")


def test_invalid_settings_are_reported_to_lambda(start: Start) -> None:
    function = start("app.function", SECRET_KEY="short")
    path, error = function.result()
    assert path == "init/error"
    assert "SECRET_KEY" in error["errorMessage"]
    assert function.process.wait(PATIENCE) == 1


class Store(ThreadingHTTPServer):
    """A stand-in for Secrets Manager."""

    daemon_threads = True

    def __init__(self, status: int, response: dict[str, Any]) -> None:
        self.received: list[tuple[dict[str, str], Any]] = []
        store = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                """No log."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                store.received.append((dict(self.headers), json.loads(body)))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(response).encode())

        super().__init__(("127.0.0.1", 0), Handler)
        Thread(target=self.serve_forever, daemon=True).start()

    def variables(self) -> dict[str, str | None]:
        return {
            "SECRET_KEY": None,
            "DATABASE_URL": None,
            "REDIS_URL": None,
            "SECRETS_FROM": "arn:aws:secretsmanager:eu-west-1:1:secret:service-AbCdEf",
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": f"http://127.0.0.1:{self.server_port}",
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "of-the-role",
            "AWS_SESSION_TOKEN": "of-the-moment",
        }


def test_secrets_are_fetched_with_the_role_of_the_function(
    start: Start, variables: dict[str, str]
) -> None:
    names = ("SECRET_KEY", "DATABASE_URL", "REDIS_URL")
    secret = {name: variables[name] for name in names}
    with Store(200, {"SecretString": json.dumps(secret)}) as store:
        function = start("app.function", **store.variables())
        assert function.invoke(http_api("GET", "/health/ready"))["statusCode"] == 200
        [(headers, body)] = store.received
        store.shutdown()
    assert body == {"SecretId": "arn:aws:secretsmanager:eu-west-1:1:secret:service-AbCdEf"}
    assert headers["X-Amz-Target"] == "secretsmanager.GetSecretValue"
    assert headers["X-Amz-Security-Token"] == "of-the-moment"
    assert "Credential=AKIDEXAMPLE/" in headers["Authorization"]
    assert "/eu-west-1/secretsmanager/aws4_request" in headers["Authorization"]
    assert not any(value in function.log for value in secret.values())


@pytest.mark.parametrize(
    ("status", "response", "message"),
    [
        (400, {"__type": "AccessDeniedException"}, "AccessDeniedException"),
        (200, {"SecretString": "hunter2"}, "would be JSON"),
    ],
)
def test_secrets_that_cannot_be_read_are_reported_to_lambda(
    start: Start, status: int, response: dict[str, Any], message: str
) -> None:
    with Store(status, response) as store:
        function = start("app.function", **store.variables())
        path, error = function.result()
        store.shutdown()
    assert path == "init/error"
    assert message in error["errorMessage"]
    assert "hunter2" not in json.dumps(error) + function.log


def test_spans_are_exported_before_the_freeze(start: Start) -> None:
    pytest.importorskip("app.platform.observability.tracing.provider")
    received: list[str] = []

    class Collector(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """No log."""

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            received.append(self.path)
            self.send_response(200)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        Thread(target=collector.serve_forever, daemon=True).start()
        function = start(
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.server_port}",
            OTEL_TRACES_SAMPLER_ARG="1",
            OTEL_BSP_SCHEDULE_DELAY="3600000",  # the batch would be exported in an hour
        )
        function.invoke(http_api("GET", "/test/seen"))
        assert received == ["/v1/traces"]
        collector.shutdown()


def test_the_stack_starts_the_function_as_these_tests_do() -> None:
    image = FUNCTION["ImageConfig"]
    assert [*image["EntryPoint"], *image["Command"]] == ["python", "-m", "app.function"]
