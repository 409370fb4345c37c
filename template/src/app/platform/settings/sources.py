"""Sources and types of settings: secrets in files, comma-separated lists; error messages."""

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import NoDecode, PydanticBaseSettingsSource

ERROR_HEADER = "Invalid settings; nothing was started:"


def read_secret_file(name: str) -> "str | UnreadableFile | None":
    """The secret ``name`` from the file that ``NAME_FILE`` names; an empty one counts as unset."""
    path = os.environ.get(f"{name.upper()}_FILE")
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        return UnreadableFile(f"{path} can't be read: {reason}")


class SecretFiles(PydanticBaseSettingsSource):
    """Secrets in files: ``NAME_FILE`` is the path of a file that holds ``NAME``.

    ``loaded``: what settings of this process, or of the one that forked it, found there, by name.
    """

    loaded: ClassVar[dict[str, set[str]]] = {}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        if field.annotation not in (SecretStr, SecretStr | None):
            return None, field_name, False
        return read_secret_file(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields.items()
        values = {name: self.get_field_value(field, name)[0] for name, field in fields}
        found = {name: value for name, value in values.items() if value is not None}
        for name, value in found.items():
            self.loaded.setdefault(name, set()).add(value)
        return found


class UnreadableFile(str):
    """The reason why a secret's file can't be read, in place of its content."""


def refuse_unreadable(value: object) -> object:
    """Report an unreadable file as a validation error, together with all others."""
    if isinstance(value, UnreadableFile):
        raise ValueError(str(value))
    return value


def _split_commas(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


# A list that is written as "a, b".
CommaSeparated = Annotated[list[str], NoDecode, BeforeValidator(_split_commas)]


def format_errors(error: ValidationError) -> str:
    """One line per invalid variable, without its value, which may be secret."""
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        if problem["type"] == "default_factory_not_called":  # a consequence of another error
            continue
        name = "__".join(map(str, problem["loc"])).upper()
        reason = "is missing" if problem["type"] == "missing" else problem["msg"]
        lines.append(f"  {name}: {reason.removeprefix('Value error, ')}")
    return "\n".join([ERROR_HEADER, *lines])
