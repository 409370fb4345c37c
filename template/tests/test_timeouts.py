"""docs/timeouts.md: every time-out is on it, with its default, in an order that holds."""

import importlib
import re
from types import ModuleType

import pytest
from sqlalchemy import text

from app.platform.data.engine import create_engine
from app.platform.server.gunicorn_worker import drain_seconds
from app.platform.settings.timeouts import out_of_order, pairs
from app.settings import Settings
from tests.conftest import ROOT
from tests.timeouts import rows

ROWS = rows()
FIELDS = Settings.model_fields
# Waits; lifetimes of what is stored are whole seconds.
TIMEOUTS = sorted(
    name
    for name, field in FIELDS.items()
    if name.endswith("_timeout") and field.annotation is float
)
CONSTANTS = sorted(name for name in ROWS if re.fullmatch(r"[a-z_]+\.[A-Z_]+", name))


def module_named(name: str) -> ModuleType:
    [path] = (ROOT / "src/app/platform").rglob(f"{name}.py")
    return importlib.import_module(".".join(path.relative_to(ROOT / "src").with_suffix("").parts))


@pytest.mark.parametrize("name", TIMEOUTS)
def test_a_time_out_is_on_the_page_with_its_default(name: str) -> None:
    assert ROWS[name.upper()].seconds == FIELDS[name].default


def test_each_setting_on_the_page_has_its_default(settings: Settings) -> None:
    for name, row in ROWS.items():
        if name.lower() in FIELDS and name != "DRAIN_SECONDS":
            assert row.seconds == FIELDS[name.lower()].default, name
    production = settings.model_copy(update={"environment": "production", "drain_seconds": None})
    assert ROWS["DRAIN_SECONDS"].seconds == drain_seconds(production)


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_on_the_page_has_its_value(name: str) -> None:
    module, constant = name.split(".")
    value = getattr(module_named(module), constant)
    assert ROWS[name].seconds == (float(value.rstrip("s")) if isinstance(value, str) else value)


def gunicorn(name: str) -> int:
    source = (ROOT / "gunicorn.conf.py").read_text(encoding="utf-8")
    [value] = re.findall(rf"(?m)^{name} = (\d+)", source)
    return int(value)


def test_gunicorns_time_outs_are_those_of_its_configuration() -> None:
    on_page = {name.split(".")[1] for name in ROWS if name.startswith("gunicorn.")}
    assert on_page == {"keepalive", "graceful_timeout", "timeout"}
    for name in on_page:
        assert ROWS[f"gunicorn.{name}"].seconds == gunicorn(name)
    shutdown = ROWS["DRAIN_SECONDS"].seconds + ROWS["gunicorn_worker.LIFESPAN_TIMEOUT"].seconds
    in_flight = gunicorn("graceful_timeout") - shutdown
    assert f"{in_flight:g} s in production" in (ROOT / "docs/timeouts.md").read_text()


def test_compose_waits_longer_than_each_process_needs_to_stop() -> None:
    source = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    [grace] = re.findall(r"(?m)^  stop_grace_period: (\d+)s$", source)
    assert ROWS["compose.yaml: stop_grace_period"].seconds == int(grace)
    needed = {"for the API": gunicorn("graceful_timeout")}
    if worker := FIELDS.get("worker_shutdown_timeout"):
        needed["for a worker"] = worker.default + module_named("watchdog").EXIT_MARGIN
    assert max(needed.values()) < int(grace)
    for process, seconds in needed.items():
        assert f"{seconds:g} s {process}" in source


def test_the_checklist_has_the_seconds_that_a_shutdown_takes() -> None:
    checklist = (ROOT / "docs/production.md").read_text(encoding="utf-8")
    [row] = [line for line in checklist.splitlines() if "The platform's termination" in line]
    assert f"longer than the {gunicorn('graceful_timeout')} s of Gunicorn" in row
    if "worker_shutdown_timeout" in FIELDS:
        margin = module_named("watchdog").EXIT_MARGIN
        assert f"longer than `WORKER_SHUTDOWN_TIMEOUT` plus {margin:g} s" in checklist


async def test_an_idle_transaction_outlasts_its_request(settings: Settings) -> None:
    given = settings.model_copy(update={"request_timeout": FIELDS["request_timeout"].default})
    engine = create_engine(given, pooled=False)
    async with engine.connect() as connection:
        shown = await connection.execute(text("SHOW idle_in_transaction_session_timeout"))
    [row] = [row for name, row in ROWS.items() if name.startswith("idle_in_transaction")]
    assert shown.scalar_one() == f"{row.seconds / 60:g}min"
    assert row.seconds == 2 * given.request_timeout


@pytest.mark.parametrize(("inner", "outer"), pairs(Settings))
def test_a_pair_out_of_order_is_refused_and_its_order_is_on_the_page(
    inner: str, outer: str
) -> None:
    settings = Settings.model_construct()  # the defaults
    assert f"`{outer.upper()}`" in ROWS[inner.upper()].order or (
        f"`{inner.upper()}`" in ROWS[outer.upper()].order
    )
    assert out_of_order(settings) == []
    equal = settings.model_copy(update={outer: getattr(settings, inner)})
    sentences = [each for each in out_of_order(equal) if each.startswith(f"{inner.upper()} (")]
    assert [each for each in sentences if f"not less than {outer.upper()} (" in each]
