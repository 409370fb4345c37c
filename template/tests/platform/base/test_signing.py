"""Signatures, and the rotation of the keys that make them."""

import base64
import secrets

import pytest
from pydantic import SecretStr

from app.platform.base.signing import derive_keys, sign, verify
from app.settings import Settings

OLD, NEW = secrets.token_hex(32), secrets.token_hex(32)
PAYLOAD = b"some bytes"


def with_keys(settings: Settings, key: str, *fallbacks: str) -> Settings:
    changes = {"secret_key": key, "secret_key_fallbacks": ", ".join(fallbacks)}
    return settings.model_copy(update={name: SecretStr(value) for name, value in changes.items()})


def test_a_signature_is_valid_for_its_purpose_and_payload_only(settings: Settings) -> None:
    keys = derive_keys(settings, "a purpose")
    signed = sign(keys, PAYLOAD)

    assert verify(keys, signed) == PAYLOAD
    for other in (signed[:-1], signed[1:], "A" + signed[1:], signed + "AAAA", "é", ""):
        with pytest.raises(ValueError, match="sign"):
            verify(keys, other if other != signed else "")
    with pytest.raises(ValueError, match="invalid"):
        verify(derive_keys(settings, "another purpose"), signed)


def test_a_signature_has_128_bits(settings: Settings) -> None:
    signed = sign(derive_keys(settings, "a purpose"), b"")
    assert len(base64.urlsafe_b64decode(signed + "==")) * 8 == 128


@pytest.mark.parametrize("length", range(4))
def test_a_signature_has_one_form(settings: Settings, length: int) -> None:
    keys = derive_keys(settings, "a purpose")
    signed = sign(keys, PAYLOAD[:length])
    for more in ("\0", "\n", "=", "==", "A", "!"):
        with pytest.raises(ValueError, match="sign"):
            verify(keys, signed + more)


def test_a_fallback_key_verifies_but_does_not_sign(settings: Settings) -> None:
    before, both, after = (
        derive_keys(with_keys(settings, *keys), "a purpose") for keys in ([OLD], [NEW, OLD], [NEW])
    )

    assert verify(both, sign(before, PAYLOAD)) == PAYLOAD
    assert verify(after, sign(both, PAYLOAD)) == PAYLOAD
    for old, new in [(before, after), (after, before)]:
        with pytest.raises(ValueError, match="invalid"):
            verify(new, sign(old, PAYLOAD))
