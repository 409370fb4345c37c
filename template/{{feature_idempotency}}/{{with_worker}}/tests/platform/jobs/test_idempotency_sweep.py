"""Expired idempotency keys are deleted by a scheduled job."""

from typing import Any, cast

import pytest
from fastapi import FastAPI
from sqlalchemy import func, select, text

from app.platform.data import idempotency_keys
from app.platform.data.idempotency_keys import IdempotencyKey
from app.platform.jobs import idempotency_sweep, registry
from app.settings import Settings
from tests.conftest import running_platform


class Context:
    """What the job uses of its context."""

    def __init__(self, app: FastAPI) -> None:
        self.transaction = app.state.db.transaction


async def test_the_job_deletes_all_expired_keys_in_batches(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency_sweep, "BATCH_SIZE", 2)
    statement = text(
        "INSERT INTO idempotency_keys (caller, key, fingerprint, expires_at)"
        " SELECT 'ada', n, '', now() + make_interval(mins => n - 5) FROM generate_series(1, 9) n"
    )
    async with app.state.db.transaction() as session:
        await session.execute(statement)
    assert await idempotency_sweep.sweep(cast("Any", Context(app))) == 5
    [remaining] = await app.state.read_session.first(select(func.count(IdempotencyKey.key)))
    assert remaining == 4


async def test_a_key_that_a_request_holds_is_left_for_the_next_sweep(
    fresh_settings: Settings,
) -> None:
    async with running_platform(fresh_settings) as app:
        db = app.state.db
        async with db.transaction() as session:
            columns = "(caller, key, fingerprint, expires_at)"
            values = "SELECT 'ada', n, '', now() FROM generate_series(1, 3) n"
            await session.execute(text(f"INSERT INTO idempotency_keys {columns} {values}"))
        async with db.engine.begin() as request, db.transaction() as session:
            await request.execute(text("SELECT FROM idempotency_keys LIMIT 1 FOR UPDATE"))
            await session.execute(text("SET LOCAL lock_timeout = '1s'"))
            assert await idempotency_keys.sweep(session, 10) == 2


def test_the_job_is_scheduled() -> None:
    assert "idempotency.sweep" in {each.name for each in registry.scheduled()}
