"""The stack and the service agree: settings, commands, times, connections, secrets."""

import importlib
from typing import Any

import click
import httpx2
import pytest
from pydantic import SecretStr

from app.cli import cli
from app.platform import jobs
from app.platform.settings.core import DEPLOYED
from app.settings import Settings
from tests.deploy import stack
from tests.deploy.stack import containers, environment, of_gunicorn
from tests.required import REQUIRED
from tests.timeouts import rows

CONTAINERS = containers()
MAX_TEMPLATE_SIZE = 51_200  # bytes that CloudFormation accepts without S3
FIELDS = {name.upper(): field for name, field in Settings.model_fields.items()}
EXAMPLES = {"VpcCidr": "10.0.0.0/16"}  # of parameters without a default
SECRETS = {n for n, f in FIELDS.items() if f.annotation in (SecretStr, SecretStr | None)}


@pytest.fixture(params=CONTAINERS)
def container(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = CONTAINERS[request.param]
    return found


def test_every_process_of_the_service_has_a_task() -> None:
    assert set(CONTAINERS) >= {"migrate", *jobs.BACKGROUND_PROCESSES}
    assert {"migrate", *jobs.BACKGROUND_PROCESSES, "api"} >= set(CONTAINERS)


def test_variables_are_settings_with_valid_values(container: dict[str, Any]) -> None:
    values = environment(container)
    assert set(values) - set(FIELDS) == set()
    for name, value in values.items():
        if value.startswith("!Ref "):
            parameter = value.removeprefix("!Ref ")
            example = REQUIRED.get(name, EXAMPLES.get(parameter, "given"))
            values[name] = stack.PARAMETERS[parameter].get("Default", example)
    given = {name: value for name, value in values.items() if value}
    assert Settings(**{name.lower(): value for name, value in (REQUIRED | given).items()})


def test_the_environment_is_a_parameter_production_by_default(container: dict[str, Any]) -> None:
    assert environment(container)["ENVIRONMENT"] == "!Ref Environment"
    assert stack.PARAMETERS["Environment"]["Default"] == "production"
    assert set(stack.PARAMETERS["Environment"]["AllowedValues"]) == set(DEPLOYED)


def test_secrets_come_from_secrets_manager_only(container: dict[str, Any]) -> None:
    stored = {each["Name"]: each["ValueFrom"] for each in container["Secrets"]}
    assert {n for n, field in FIELDS.items() if field.is_required()} <= set(stored) <= SECRETS
    assert stored == {name: f"!Sub ${{Secret}}:{name}::" for name in stored}
    assert SECRETS & set(environment(container)) == set()


def test_commands_exist(container: dict[str, Any]) -> None:
    commands = click.Group(commands=dict(cli.commands))
    jobs.add_commands(commands)
    program, command = container["Command"]
    assert program == "app"
    assert command in commands.commands


def test_a_container_can_write_only_to_its_scratch_space(container: dict[str, Any]) -> None:
    assert container["User"].split(":")[0] not in ("0", "root")
    assert container["ReadonlyRootFilesystem"] is True
    assert container["LinuxParameters"]["Capabilities"] == {"Drop": ["ALL"]}
    assert [each["ContainerPath"] for each in container["LinuxParameters"]["Tmpfs"]] == ["/tmp"]


def test_the_platform_waits_longer_than_the_service_needs_to_stop(
    container: dict[str, Any],
) -> None:
    defaults = Settings.model_fields
    needed = [of_gunicorn("graceful_timeout")]
    if "worker_shutdown_timeout" in defaults:
        watchdog = importlib.import_module("app.platform.jobs.watchdog")
        needed.append(defaults["worker_shutdown_timeout"].default + watchdog.EXIT_MARGIN)
    assert max(needed) < container["StopTimeout"] <= 120
    assert rows()["deploy/stack.yaml: StopTimeout"].seconds == container["StopTimeout"]


def test_the_template_is_small_enough_to_pass_directly() -> None:
    assert len(stack.TEXT.encode()) < MAX_TEMPLATE_SIZE


async def test_health_checks_use_existing_routes(client: httpx2.AsyncClient) -> None:
    for name, each in CONTAINERS.items():
        command = " ".join(each.get("HealthCheck", {}).get("Command", []))
        if name == "migrate":
            assert not command
        elif name in jobs.BACKGROUND_PROCESSES:
            assert command == f"CMD python -m app.platform.base.heartbeat {name}"
        else:
            assert f"http://127.0.0.1:{FIELDS['PORT'].default}/health/live" in command
    assert (await client.get("/health/live")).status_code == 200
