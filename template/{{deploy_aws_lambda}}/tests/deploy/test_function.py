"""The function, as a process of its own with AWS's own runtime client, on real servers."""

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
    """Start functions of a test's own; ``None`` takes a variable away."""
    started: list[Function] = []

    def start(module: str = "tests.deploy.routes", **changes: str | None) -> Function:
        given = {name: v for name, v in (variables | changes).items() if v is not None}
        started.append(Function(given, module))
        return started[-1]

    yield start
    for function in started:
        function.end()


@pytest.mark.parametrize("front", [http_api, function_url])
def test_both_fronts_are_answered(function: Function, front: Callable[..., Event]) -> None:
    answer = function.ask(front("GET", "/health/ready"))
    assert answer["statusCode"] == 200
    assert answer["headers"]["content-type"] == "application/json"
    assert json.loads(content(answer))["status"] == "ready"
    assert answer["isBase64Encoded"] is False


def test_a_request_arrives_as_it_was_sent(function: Function) -> None:
    event = http_api(
        "GET",
        "/test/a%20b/%C3%A9",
        query="x=1&x=2%26",
        headers={"accept": "a/b,c/d", "x-forwarded-for": "198.51.100.66, 203.0.113.7"},
        cookies=["a=1", "b=2"],
    )
    assert json.loads(content(function.ask(event))) == {
        "path": "/test/a b/é",
        "query": "x=1&x=2%26",
        "scheme": "https",
        "client": "203.0.113.7",  # what AWS saw, whatever a header says
        "cookies": {"a": "1", "b": "2"},
        "a": "1",
        "accept": "a/b,c/d",
    }


def test_the_name_of_a_stage_is_no_part_of_the_path(function: Function) -> None:
    answer = function.ask(http_api("GET", "/staging/test/seen", stage="staging"))
    assert json.loads(content(answer))["path"] == "/test/seen"


def test_bytes_go_in_and_out_unchanged(function: Function) -> None:
    answer = function.ask(http_api("POST", "/test/echo", body=BYTES))
    assert answer["isBase64Encoded"] is True
    assert content(answer) == BYTES


def test_text_stays_text_and_several_headers_and_cookies_stay_several(function: Function) -> None:
    answer = function.ask(http_api("GET", "/test/answer"))
    assert (answer["body"], answer["isBase64Encoded"]) == ("é", False)
    assert [cookie.split(";")[0] for cookie in answer["cookies"]] == ["one=1", "two=2"]
    assert answer["headers"]["vary"] == "A, B"
    assert "set-cookie" not in answer["headers"]


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
    answer = function.ask(event)
    assert answer["statusCode"] == status
    assert answer["headers"]["content-type"] == "application/problem+json"
    problem = json.loads(content(answer))
    assert (problem["status"], problem["code"]) == (status, code)
    assert "hunter2" not in answer["body"]


def test_what_takes_too_long_is_answered_before_the_platform_gives_up(function: Function) -> None:
    answer = function.ask(http_api("GET", "/test/slow"), seconds=8)
    assert answer["statusCode"] == 504
    assert json.loads(content(answer))["code"] == "timeout"
    assert function.ask(http_api("GET", "/health/live"))["statusCode"] == 200


def test_nothing_is_left_running_when_an_event_is_answered(function: Function) -> None:
    answer = function.ask(http_api("GET", "/test/behind"))
    assert json.loads(content(answer)) == "answered"
    os.kill(function.process.pid, signal.SIGSTOP)
    try:
        until = time.monotonic() + PATIENCE
        while "left behind, and done" not in function.log and time.monotonic() < until:
            time.sleep(0.05)  # the line is written; it may still be on its way to here
    finally:
        os.kill(function.process.pid, signal.SIGCONT)
    assert "left behind, and done" in function.log


def test_work_that_never_ends_does_not_cost_the_answer(function: Function) -> None:
    answer = function.ask(http_api("GET", "/test/background"), seconds=8)
    assert (answer["statusCode"], json.loads(content(answer))) == (200, "answered")


def test_each_request_has_its_line_before_the_freeze(function: Function) -> None:
    event = http_api("GET", "/test/seen", headers={"x-request-id": "written-down"})
    assert function.ask(event)["headers"]["x-request-id"] == "written-down"
    os.kill(function.process.pid, signal.SIGSTOP)
    try:
        until = time.monotonic() + PATIENCE
        while "written-down" not in function.log and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        os.kill(function.process.pid, signal.SIGCONT)
    assert '"request_id":"written-down"' in function.log


def test_other_events_are_refused(function: Function) -> None:
    function.send({"version": "0", "source": "aws.events", "detail-type": "Scheduled Event"})
    path, error = function.result()
    assert path.endswith("/error")
    assert error["errorType"] == "NotARequest"
    assert function.ask(http_api("GET", "/health/live"))["statusCode"] == 200


async def test_a_thawed_function_finds_its_connections_again(
    start: Start, variables: dict[str, str]
) -> None:
    function = start()
    before = json.loads(content(function.ask(http_api("GET", "/test/database"))))
    assert json.loads(content(function.ask(http_api("GET", "/test/cache")))) == "thawed"
    os.kill(function.process.pid, signal.SIGSTOP)
    url = make_url(variables["DATABASE_URL"])
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
    async with open_connection(url.set(database="postgres")) as connection:
        ended = await connection.execute(text(end), {"name": url.database})
        assert len(ended.all()) >= 2
    with Redis.from_url(variables["REDIS_URL"]) as redis:
        redis.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(1)
    os.kill(function.process.pid, signal.SIGCONT)
    answer = function.ask(http_api("GET", "/test/database"))
    assert answer["statusCode"] == 200, function.log
    after = json.loads(content(answer))
    assert after["process"] == before["process"]
    assert after["connection"] != before["connection"]
    assert json.loads(content(function.ask(http_api("GET", "/test/cache")))) == "thawed"


def test_sigterm_stops_every_part(start: Start) -> None:
    function = start()
    function.ask(http_api("GET", "/test/database"))
    function.started()
    function.process.send_signal(signal.SIGTERM)
    assert function.process.wait(PATIENCE) == 0
    assert "every part has stopped" in function.logged()


def test_sigterm_during_an_event_stops_every_part_after_it(start: Start) -> None:
    function = start()
    function.send(http_api("GET", "/test/told"))
    assert function.process.wait(PATIENCE) == 0
    logged = function.logged()
    assert 0 < logged.find("the work is done") < logged.find("every part has stopped")


def test_what_is_wrong_with_the_environment_is_told_to_the_platform(start: Start) -> None:
    function = start("app.function", SECRET_KEY="short")
    path, error = function.result()
    assert path == "init/error"
    assert "SECRET_KEY" in error["errorMessage"]
    assert function.process.wait(PATIENCE) == 1


class Store(ThreadingHTTPServer):
    """Answers like Secrets Manager, for one request after the other."""

    daemon_threads = True

    def __init__(self, status: int, answer: dict[str, Any]) -> None:
        self.asked: list[tuple[dict[str, str], Any]] = []
        store = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                """Say nothing."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                store.asked.append((dict(self.headers), json.loads(body)))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

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
        assert function.ask(http_api("GET", "/health/ready"))["statusCode"] == 200
        [(headers, body)] = store.asked
        store.shutdown()
    assert body == {"SecretId": "arn:aws:secretsmanager:eu-west-1:1:secret:service-AbCdEf"}
    assert headers["X-Amz-Target"] == "secretsmanager.GetSecretValue"
    assert headers["X-Amz-Security-Token"] == "of-the-moment"
    assert "Credential=AKIDEXAMPLE/" in headers["Authorization"]
    assert "/eu-west-1/secretsmanager/aws4_request" in headers["Authorization"]
    assert not any(value in function.log for value in secret.values())


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (400, {"__type": "AccessDeniedException"}, "AccessDeniedException"),
        (200, {"SecretString": "hunter2"}, "would be JSON"),
    ],
)
def test_secrets_that_cannot_be_had_are_told_to_the_platform(
    start: Start, status: int, answer: dict[str, Any], said: str
) -> None:
    with Store(status, answer) as store:
        function = start("app.function", **store.variables())
        path, error = function.result()
        store.shutdown()
    assert path == "init/error"
    assert said in error["errorMessage"]
    assert "hunter2" not in json.dumps(error) + function.log


def test_spans_leave_before_the_freeze(start: Start) -> None:
    pytest.importorskip("app.platform.observability.tracing.provider")
    received: list[str] = []

    class Collector(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

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
            OTEL_BSP_SCHEDULE_DELAY="3600000",  # by themselves, they would leave in an hour
        )
        function.ask(http_api("GET", "/test/seen"))
        assert received == ["/v1/traces"]
        collector.shutdown()


def test_the_stack_starts_the_function_as_these_tests_do() -> None:
    image = FUNCTION["ImageConfig"]
    assert [*image["EntryPoint"], *image["Command"]] == ["python", "-m", "app.function"]
