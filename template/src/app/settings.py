"""The settings of this service: yours here, the platform's in ``app.platform.settings``."""

from functools import cache

from app.platform.settings import PlatformSettings, load_settings


class Settings(PlatformSettings):
    """Your settings, one typed and described line each.

    The environment variable has the field's name, in capitals. A field of type ``SecretStr`` can
    also be given as a file, by ``<NAME>_FILE``:

        stripe_key: SecretStr = Field(description="Secret key of the Stripe account")
    """

    # Your own settings here.


@cache
def get_settings() -> Settings:
    """The settings of this process, read once.

    Raises ``SettingsError`` with one line for each variable that is missing or invalid.
    """
    return load_settings(Settings)
