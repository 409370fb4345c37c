"""Renamed settings: the old environment variable keeps working for one version.

A settings class lists its old names in ``renamed: ClassVar = {"old_name": "new_name"}``. They are
read from the same places as the new names. Where both are set, the new name wins.
"""

from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
)

from app.platform.settings.sources import SecretFiles


class RenamedVariables(PydanticBaseSettingsSource):
    """Values of settings that are set under their old name."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        self._sources = (
            EnvSettingsSource(settings_cls),
            SecretFiles(settings_cls),
            DotEnvSettingsSource(settings_cls),
        )

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        for source in self._sources:
            value, key, is_complex = source.get_field_value(field, field_name)
            if value is not None:
                return value, key, is_complex
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {}
        for old, new in _renamed(self.settings_cls).items():
            field = self.settings_cls.model_fields[new]
            value, _, is_complex = self.get_field_value(field, old)
            if value is not None:
                values[new] = self.prepare_field_value(new, field, value, is_complex)
        return values


def rename_hints(settings_cls: type[BaseSettings]) -> list[str]:
    """One line for each old variable that is set: what to rename it to."""
    sources = EnvSettingsSource(settings_cls), DotEnvSettingsSource(settings_cls)
    variables = {name for source in sources for name in source.env_vars}
    return [
        f"{old.upper()}{suffix} is deprecated: rename it to {new.upper()}{suffix}"
        for old, new in _renamed(settings_cls).items()
        for suffix in ("", "_FILE")
        if f"{old}{suffix}".lower() in variables
    ]


def _renamed(settings_cls: type[BaseSettings]) -> dict[str, str]:
    """Old name to new name, from the class and all its bases."""
    return {
        old: new
        for cls in reversed(settings_cls.__mro__)
        for old, new in vars(cls).get("renamed", {}).items()
    }
