"""How values reach the settings: secrets from files, lists by comma, errors in plain words."""

import os
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

ERROR_HEADER = "Invalid settings; nothing was started:"


class SecretFiles(PydanticBaseSettingsSource):
    """Reads each secret ``NAME`` from the file that ``NAME_FILE`` names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        path = os.environ.get(f"{field_name.upper()}_FILE")
        if not path or field.annotation not in (SecretStr, SecretStr | None):
            return None, field_name, False
        try:
            text = Path(path).read_text(encoding="utf-8").strip()
            return text or None, field_name, False  # an empty one is as good as none
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            return Unreadable(f"{path} can't be read: {reason}"), field_name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields.items()
        values = {name: self.get_field_value(field, name)[0] for name, field in fields}
        return {name: value for name, value in values.items() if value is not None}


class Unreadable(str):
    """Why a secret's file can't be read, in the place of its value."""


def refuse_unreadable(value: object) -> object:
    """Report a secret's file that can't be read, with all the other errors."""
    if isinstance(value, Unreadable):
        raise ValueError(str(value))
    return value


def split_commas(value: object) -> object:
    """Turn ``"a, b"`` into ``["a", "b"]``."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def format_errors(error: ValidationError) -> str:
    """Say in one line for each variable what is wrong with it, without repeating its value."""
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        if problem["type"] == "default_factory_not_called":  # only because another value is wrong
            continue
        name = ".".join(map(str, problem["loc"])).upper()
        reason = "is missing" if problem["type"] == "missing" else problem["msg"]
        lines.append(f"  {name}: {reason.removeprefix('Value error, ')}")
    return "\n".join([ERROR_HEADER, *lines])
