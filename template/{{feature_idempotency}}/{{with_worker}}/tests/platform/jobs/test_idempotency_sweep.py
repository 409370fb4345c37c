"""Expired idempotency keys are deleted by a scheduled job."""

from typing import Any, cast

import pytest
from fastapi import FastAPI
from sqlalchemy import func, select, text

from app.platform.data.idempotency_keys import IdempotencyKey
from app.platform.jobs import idempotency_sweep, registry


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


def test_the_job_is_scheduled() -> None:
    assert "idempotency.sweep" in {each.name for each in registry.scheduled()}
