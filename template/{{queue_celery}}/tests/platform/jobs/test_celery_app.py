"""The Celery application: connections and their pools."""

from pathlib import Path

import pytest

from app.platform.jobs.celery_app import celery_app
from app.platform.settings import offline_settings
from app.settings import Settings


def test_each_login_has_a_connection_pool_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "url"
    monkeypatch.setenv("REDIS_URL_FILE", str(file))
    pools = []
    for user in ("old", "new"):
        file.write_text(f"redis://{user}:secret@host/0")
        offline_settings(Settings)  # reads the file, as the start does
        celery = celery_app(file.read_text(), 1.0)
        assert celery.pool is celery_app(file.read_text(), 1.0).pool
        pools += [celery.pool, celery.producer_pool]
    assert len({id(pool) for pool in pools}) == len(pools)
