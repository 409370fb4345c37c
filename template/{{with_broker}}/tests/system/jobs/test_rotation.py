"""A rotated password of Redis: publishers and workers use the one that the file holds now."""

import secrets
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from app.platform.settings import offline_settings
from app.settings import Settings
from tests.platform.jobs import samples
from tests.platform.jobs.conftest import running_service
from tests.system.jobs.conftest import Start


async def test_jobs_run_after_the_login_of_redis_was_replaced(
    fresh_settings: Settings, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fresh_settings.redis_url.get_secret_value()
    file = tmp_path / "url"
    monkeypatch.setenv("REDIS_URL_FILE", str(file))
    old, new = (f"rotated_{secrets.token_hex(4)}" for _ in range(2))
    async with Redis.from_url(url) as admin:
        for user in (old, new):
            await admin.acl_setuser(
                user,
                enabled=True,
                passwords=["+of/redis"],
                keys=["*"],
                channels=["*"],
                categories=["+@all"],
            )
        file.write_text(url.replace("://", f"://{old}:of%2Fredis@"))
        offline_settings(Settings)  # reads the file, as the start does
        changes = {"redis_url": SecretStr(file.read_text())}
        try:
            async with running_service(fresh_settings.model_copy(update=changes)) as service:
                start("worker", REDIS_URL="", REDIS_URL_FILE=str(file))
                job = await service.enqueue(samples.note, text="before")
                await service.wait_for_status(job.id, "succeeded")
                assert old in {client["user"] for client in await admin.client_list()}
                file.write_text(url.replace("://", f"://{new}:of%2Fredis@"))
                await admin.acl_deluser(old)  # ends its connections
                job = await service.enqueue(samples.note, text="after")
                await service.wait_for_status(job.id, "succeeded")
        finally:
            await admin.acl_deluser(old, new)
