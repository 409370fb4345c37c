"""The texts of the mails to owners of accounts: yours, in ``src/app/auth/mails``."""

import pytest

from app.auth import MAILS
from tests.conftest import ROOT

FOLDER = ROOT / "src/app/auth/mails"
LANGUAGES = sorted(path.name for path in FOLDER.iterdir())
KINDS = sorted(path.stem for path in (FOLDER / "en").glob("*.txt"))
LINKS = {"already_registered", "change_email", "reset_password", "verify_email"}
VALUES = {
    "service": "Orders",
    "email": "ada@example.com",
    "link": "https://app.example.com/page#token=1",
    "validity": "24 h",
    "time": "2026-11-28 12:00 UTC",
    "reset": "https://app.example.com/forgot-password",
    "client": "192.0.2.1",
    "program": "Mozilla/5.0",
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_mail_is_complete_in_each_language(kind: str, language: str) -> None:
    assert (FOLDER / language / f"{kind}.txt").exists()
    mail = MAILS.render(kind, "ada@example.com", locale=language, **VALUES)
    assert mail.subject
    if kind in LINKS:
        assert VALUES["link"] in mail.text
        assert VALUES["link"] in mail.html
