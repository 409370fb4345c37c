"""Settings of this service: yours here, the platform's in ``app.platform.settings``."""

from functools import cache

from app.platform.settings import PlatformSettings, load_settings


class Settings(PlatformSettings):
    """Your settings: each field is read from the environment variable of the same name.

    A ``SecretStr`` can also be given as ``<NAME>_FILE``, the path of a file that holds it:

        stripe_key: SecretStr = Field(description="Secret key of the Stripe account")
    """

    # Your own settings here.


@cache
def get_settings() -> Settings:
    """The settings of this process, read once.

    Raises ``SettingsError`` with one line per variable that is missing or invalid.
    """
    return load_settings(Settings)
