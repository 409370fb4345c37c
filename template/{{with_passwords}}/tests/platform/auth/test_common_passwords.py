import httpx2
import pytest

from app.platform import about
from app.platform.auth.common_passwords import is_common
from tests.accounts import register


@pytest.mark.parametrize(
    "password",
    [
        "password",
        "PASSWORD",
        "qwerty123456",  # in the list as it is
        "Password-2026!",
        "123letmein456",
        "qwertyqwertyqwerty",
        "iloveyou iloveyou",
        "aaaaaaaaaaaaaaaa",
        "abababababab",
        "123456789012",
        "abcdefghijklmnop",
        f"{about.NAME}2026",
    ],
)
def test_a_common_password_is_recognised(password: str) -> None:
    assert is_common(password)


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery",
        "another horse battery",
        "Vq8-zebra-lantern",
        "кошка на столе",
        "密码很长而且不常见的一句话",
        "1" * 240 + "qazwsx and more",  # took for ever as a regular expression
    ],
)
def test_other_passwords_are_accepted_without_rules_of_composition(password: str) -> None:
    assert not is_common(password)


async def test_an_account_with_a_common_password_is_refused(client: httpx2.AsyncClient) -> None:
    answer = await register(client, "ada@example.com", "Password-2026!")

    assert (answer.status_code, answer.json()["code"]) == (400, "common_password")
    assert "Password-2026!" not in answer.text
