"""Metrics of one's own: names, labels, and values while the service runs."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from app.platform.observability import telemetry
from app.platform.observability.telemetry import counter, gauge, histogram
from app.settings import Settings
from tests.conftest import client_for, running_platform


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start without declared metrics: a feature may have declared one of the names below."""
    monkeypatch.setattr(telemetry, "_declared", {})
    monkeypatch.setattr(telemetry, "_registry", None)
    return


async def test_a_metric_of_a_feature_is_scraped_and_begins_anew_with_each_service(
    settings: Settings,
) -> None:
    paid = counter("orders_paid_total", "Orders that have been paid.", ["method"])
    paid.inc(method="card")  # no service runs: nothing happens
    age = gauge("rates_age_seconds", "Age of the rates.", across="max")
    pricing = histogram("orders_pricing_seconds", "Duration of pricing.")
    async with running_platform(settings) as app, client_for(app) as client:
        paid.inc(method="card")
        paid.inc(2, method="card")
        age.set(7)
        with pytest.raises(ZeroDivisionError), pricing.time():
            raise ZeroDivisionError
        late = counter("orders_late_total", "Orders that were late.")
        late.inc()
        text = (await client.get("/metrics")).text
    assert 'orders_paid_total{method="card"} 3.0' in text
    assert "rates_age_seconds 7.0" in text
    assert "orders_pricing_seconds_count 1.0" in text
    assert "orders_late_total 1.0" in text
    async with running_platform(settings) as app, client_for(app) as client:
        assert "orders_late_total 0.0" in (await client.get("/metrics")).text


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: counter("orders_paid", "Paid."), "ends in _total"),
        (lambda: counter("ordersPaid_total", "Paid."), "write the name as"),
        (lambda: counter("orders_paid_total", "Paid"), "full stop"),
        (lambda: counter("orders_paid_total", "Paid.", ["le"]), "le is not a name"),
        (lambda: counter("orders_paid_total", "Paid.", ["user-id"]), "user-id is not a name"),
        (lambda: gauge("orders_open_total", "Open."), "only a counter"),
        (lambda: histogram("orders_pricing_ms", "Pricing."), "ends in its unit"),
    ],
)
def test_a_metric_with_a_wrong_name_is_refused_at_its_declaration(
    declare: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        declare()
    assert "orders_paid_total" not in telemetry._declared


def test_a_name_can_be_declared_once() -> None:
    counter("orders_paid_total", "Orders that have been paid.")
    with pytest.raises(ValueError, match="declared already"):
        counter("orders_paid_total", "Orders that have been paid.")


def test_labels_other_than_the_declared_ones_are_refused_also_while_no_service_runs() -> None:
    paid = counter("orders_paid_total", "Orders that have been paid.", ["method"])
    with pytest.raises(ValueError, match=r"has the labels: method\. Given: kind\."):
        paid.inc(kind="card")
    with pytest.raises(ValueError, match=r"Given: none\."):
        paid.inc()


def test_a_label_with_the_values_of_callers_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(telemetry, "MAX_SERIES", 3)
    registry = CollectorRegistry()
    with telemetry.bound_to(registry):
        seen = counter("orders_seen_total", "Orders that have been seen.", ["order"])
        for number in range(10):
            seen.inc(order=str(number))
        value = registry.get_sample_value("orders_seen_total", {"order": "other"})
        assert value == 7
        assert len(seen._children) == 4


def test_a_wrong_name_of_an_attribute_is_refused_with_and_without_tracing() -> None:
    with pytest.raises(ValueError, match="write the name of an attribute as"):
        telemetry.span("price order", {"Order ID": 7})
    with pytest.raises(ValueError, match="write the name of an attribute as"):
        telemetry.set_attributes({"Order ID": 7})
    with telemetry.span("price order", {"order.id": 7}):
        telemetry.set_attributes({"order.lines": 3})
