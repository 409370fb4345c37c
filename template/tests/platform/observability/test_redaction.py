"""Redaction of fields, texts and paths."""

import time

import pytest

from app.platform.observability.redaction import redact_path


@pytest.mark.parametrize("word", ["a", "-", "-eyJ", "eyJ.", "eyJa.", "a@", "a.", "://", "a@b."])
def test_redacting_a_path_takes_linear_time(word: str) -> None:
    """The longest possible path; with a backtracking expression each took up to half a minute."""
    started = time.monotonic()
    for path in (f"/{word * 60_000}"[:60_000], f"/{word * 60_000}"[:60_000] + "@-"):
        redact_path(path + "@")
    assert time.monotonic() - started < 3
