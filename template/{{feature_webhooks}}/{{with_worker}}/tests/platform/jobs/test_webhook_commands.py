"""The commands of webhooks, with which an operator does what callers do by the API."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner

from app.main import create_app
from app.platform.base.components import CommandContext
from app.platform.http import webhook_events
from app.platform.http.webhook_events import webhook_event
from app.platform.jobs.webhook_delivery import add_commands
from app.settings import Settings

Run = Callable[..., Any]


@pytest.fixture
def run(module_settings: Settings) -> Iterator[Run]:
    """Run ``app webhooks ...``; return the exit code and the output."""
    known = dict(webhook_events._types)
    webhook_event("test.sold", int)
    cli = click.Group()
    add_commands(cli)

    def run(*arguments: str) -> tuple[int, str]:
        context = CommandContext(lambda: module_settings, create_app)
        result = CliRunner().invoke(cli, ["webhooks", *arguments], obj=context)
        return result.exit_code, result.stdout + result.stderr

    yield run
    webhook_events._types.clear()
    webhook_events._types.update(known)


def test_a_subscription_is_made_listed_tested_rotated_and_removed(run: Run) -> None:
    assert run("list", "--owner", "eve") == (0, "There are no such subscriptions.\n")
    assert run("deliveries", "--dead") == (0, "There are no such deliveries.\n")
    code, made = run("add", "ada", "https://example.com/hook", "test.sold")
    assert code == 0, made
    subscription, secret = made.split()[-2:]
    assert secret.startswith("whsec_")
    code, listed = run("list", "--owner", "ada")
    assert f"{subscription}  ada  https://example.com/hook  test.sold  enabled" in listed
    assert secret not in listed
    assert run("ping", subscription)[0] == 0
    assert "webhook.ping" in run("deliveries", "--pending")[1]
    code, rotated = run("rotate", subscription)
    assert re.search("whsec_", rotated)
    assert secret not in rotated
    assert run("enable", subscription)[0] == 0
    assert run("remove", subscription)[0] == 0
    code, output = run("remove", subscription)
    assert (code, "There is no such subscription." in output) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "ada", "https://10.0.0.1/", "test.sold"), "The address is not public."),
        (("add", "ada", "https://example.com/", "test.none"), "There is no event test.none"),
        (("replay",), "Give the id of a dead delivery, or --all."),
        (("replay", "0198c3a1-c2d4-7b0e-9c7f-1a2b3c4d5e6f"), "There is no such dead delivery."),
    ],
)
def test_a_command_says_what_is_wrong(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, output = run(*arguments)
    assert code != 0
    assert message in output


def test_replaying_all_dead_deliveries_says_how_many(run: Run) -> None:
    code, output = run("replay", "--all")
    assert (code, "Deliveries to be made again: 0" in output) == (0, True)
