"""Settings of the platform, typed and validated at startup. Yours are in ``app.settings``.

Values come from environment variables and, in development, from ``.env``. A secret ``NAME`` can
also be given as ``NAME_FILE``, the path of a file that holds it.
"""

from secrets import token_hex
from typing import TypeVar

from pydantic import SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.platform import about
from app.platform.settings.auth import AuthSettings
from app.platform.settings.core import DEPLOYED, CoreSettings
from app.platform.settings.data import DataSettings
from app.platform.settings.http import HttpSettings
from app.platform.settings.jobs import JobsSettings
from app.platform.settings.observability import ObservabilitySettings
from app.platform.settings.renamed import RenamedVariables
from app.platform.settings.renamed import rename_hints as rename_hints
from app.platform.settings.secrets import secret_weakness
from app.platform.settings.server import ServerSettings
from app.platform.settings.sources import SecretFiles, format_errors, refuse_unreadable
from app.platform.settings.tracing import TracingSettings

S = TypeVar("S", bound="PlatformSettings")


class SettingsError(Exception):
    """Settings are missing or invalid; the message lists every such variable."""


class PlatformSettings(
    AuthSettings,
    JobsSettings,
    TracingSettings,
    ObservabilitySettings,
    ServerSettings,
    HttpSettings,
    DataSettings,
    CoreSettings,
):
    """All settings of the platform, one base class per concern."""

    model_config = SettingsConfigDict(
        env_file=about.project_folder() / ".env", extra="ignore", env_ignore_empty=True
    )

    _readable = field_validator("*", mode="before")(refuse_unreadable)

    @field_validator("*")
    @classmethod
    def _not_guessable(cls, value: object, info: ValidationInfo) -> object:
        """Refuse guessable secrets in staging and production, also those of your own settings."""
        if isinstance(value, SecretStr) and info.data.get("environment") in DEPLOYED:
            secret = value.get_secret_value()
            own_rule = (info.field_name or "").startswith("secret_key")
            if secret and not own_rule and (reason := secret_weakness(secret)):
                raise ValueError(f"{reason}; use a random one")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            SecretFiles(settings_cls),
            dotenv_settings,
            RenamedVariables(settings_cls),
        )


def load_settings(kind: type[S]) -> S:
    """Settings from the environment.

    Raises ``SettingsError`` with one line per variable that is missing or invalid.
    """
    try:
        return kind()
    except ValidationError as error:
        hints = (f"  {hint}" for hint in rename_hints(kind))
        raise SettingsError("\n".join([format_errors(error), *hints])) from None


def offline_settings(kind: type[S]) -> S:
    """Placeholder settings for building the app without running it, as ``app openapi`` does."""
    return kind(
        environment="test",
        secret_key=SecretStr(token_hex()),
        database_url=SecretStr("postgresql+asyncpg://localhost/offline"),
        redis_url=SecretStr("redis://localhost"),
    )
