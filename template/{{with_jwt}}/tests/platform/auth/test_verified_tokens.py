"""The cache of verified tokens: bounded, and without usable tokens in it."""

import time

import pytest

from app.platform.auth import verified
from app.platform.auth.verified import VerifiedTokens


def test_a_token_is_known_until_it_expires() -> None:
    tokens = VerifiedTokens[str](leeway=5)
    tokens.add("valid", time.time(), "claims")
    tokens.add("expired", time.time() - 6, "claims")
    assert tokens.get("valid") == "claims"
    assert tokens.get("expired") is None
    assert tokens.get("unknown") is None


def test_the_number_of_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "MAX_TOKENS", 3)
    tokens = VerifiedTokens[int](leeway=5)
    for number in range(5):
        tokens.add(f"token {number}", time.time() + 60, number)
    assert [tokens.get(f"token {number}") for number in range(5)] == [None, None, 2, 3, 4]


def test_memory_holds_no_usable_token() -> None:
    tokens = VerifiedTokens[str](leeway=5)
    tokens.add("s3cret", time.time() + 60, "claims")
    assert "s3cret" not in repr(vars(tokens))
