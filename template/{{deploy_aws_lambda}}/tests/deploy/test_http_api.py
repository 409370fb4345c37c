"""The function's part of the stack agrees with the service: settings, times, connections."""

import re

from app.platform.settings.timeouts import out_of_order
from app.settings import Settings
from tests.deploy import stack
from tests.deploy.stack import containers, resources
from tests.required import REQUIRED
from tests.timeouts import rows

[FUNCTION] = resources("AWS::Serverless::Function").values()
VARIABLES: dict[str, str] = FUNCTION["Environment"]["Variables"]
MAX_INTEGRATION_TIMEOUT = 30  # seconds, of an HTTP API


def test_variables_are_settings_with_valid_values() -> None:
    own = {"SECRETS_FROM"}  # of app.platform.server.function.secrets
    fields = {name.upper() for name in Settings.model_fields}
    assert set(VARIABLES) - fields == own
    given = dict(REQUIRED)
    for name in fields & set(VARIABLES):
        value = VARIABLES[name]
        if value.startswith("!Ref "):
            value = stack.PARAMETERS[value[5:]].get("Default", REQUIRED.get(name, "given"))
        value = re.sub(r"\$\{[^}]+\}", "given", value.removeprefix("!Sub "))
        given |= {name: value} if value else {}
    assert Settings(**{name.lower(): value for name, value in given.items()})


def test_no_secret_is_a_variable() -> None:
    secrets = {n.upper() for n, f in Settings.model_fields.items() if "Secret" in str(f.annotation)}
    assert secrets & set(VARIABLES) == set()
    assert VARIABLES["SECRETS_FROM"] == "!Ref Secret"


def test_the_service_times_out_before_the_function_and_the_function_before_the_api() -> None:
    from app.platform.server.function.service import RESERVE

    timeout = FUNCTION["Timeout"]
    assert (
        float(VARIABLES["REQUEST_TIMEOUT"]) < timeout - RESERVE < timeout < MAX_INTEGRATION_TIMEOUT
    )


def test_a_connection_is_tested_after_every_freeze() -> None:
    # The clock may stop during a freeze, so idle time can't be measured.
    assert float(VARIABLES["DB_PING_AFTER_IDLE"]) == 0


def test_the_defaults_fit_a_postgres_with_100_connections() -> None:
    most = FUNCTION["ReservedConcurrentExecutions"].removeprefix("!Ref ")
    of_the_function = stack.PARAMETERS[most]["Default"] * int(VARIABLES["DB_POOL_SIZE"])
    assert of_the_function + stack.beside_the_api() <= 100
    assert "api" not in containers()


def test_the_page_of_time_outs_has_those_of_the_stack() -> None:
    page = rows()
    timeout = float(VARIABLES["REQUEST_TIMEOUT"])
    assert page["deploy/stack.yaml: REQUEST_TIMEOUT"].seconds == timeout
    assert page["deploy/stack.yaml: Timeout"].seconds == FUNCTION["Timeout"]
    assert str(MAX_INTEGRATION_TIMEOUT) in page["deploy/stack.yaml: Timeout"].order


def test_the_stacks_time_outs_are_in_an_order_that_works() -> None:
    timeouts = {"request_timeout": float(VARIABLES["REQUEST_TIMEOUT"])}
    assert out_of_order(Settings.model_construct(None, **timeouts)) == []
