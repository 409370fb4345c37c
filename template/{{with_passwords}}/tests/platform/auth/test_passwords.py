import asyncio
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from app.platform.auth.passwords import Passwords
from app.platform.settings.core import DEPLOYED
from app.settings import Settings
from tests.required import REQUIRED

PASSWORD = SecretStr("correct horse battery")


async def test_hashing_leaves_the_event_loop_free(settings: Settings) -> None:
    costly = settings.model_copy(update={"argon2_memory_cost": 65_536, "argon2_time_cost": 3})
    hashing = asyncio.create_task(Passwords(costly).hash(PASSWORD))
    turns = 0
    while not hashing.done():
        await asyncio.sleep(0.001)
        turns += 1

    assert turns > 3


async def test_a_password_is_verified(settings: Settings) -> None:
    passwords = Passwords(settings)
    known = await passwords.hash(PASSWORD)

    assert await passwords.verify(PASSWORD, known) == (True, None)
    assert await passwords.verify(SecretStr("another"), known) == (False, None)
    assert await passwords.verify(PASSWORD, None) == (False, None)


@pytest.mark.parametrize("weak", [{"argon2_memory_cost": 19_455}, {"argon2_time_cost": 1}])
@pytest.mark.parametrize("environment", DEPLOYED)
def test_staging_and_production_refuse_weak_costs(weak: dict[str, Any], environment: str) -> None:
    required = {name.lower(): value for name, value in REQUIRED.items()}
    given: dict[str, Any] = {**required, "environment": environment}
    strong = Settings(**given)

    costs = (strong.argon2_memory_cost, strong.argon2_time_cost, strong.argon2_parallelism)
    assert costs == (65_536, 3, 4)
    with pytest.raises(ValidationError, match="too weak for production"):
        Settings(**given, **weak)
