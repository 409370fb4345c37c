"""Hints about variables, in the environment or in ``.env``, whose names are old or misspelt."""

from difflib import get_close_matches

from pydantic import SecretStr
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource

from app.platform.settings.renamed import rename_hints

SHORTEST = 6  # characters of a name: more of the shorter ones are alike by chance


def variable_hints(settings_cls: type[BaseSettings]) -> list[str]:
    """One line for each variable that needs another name."""
    return [*rename_hints(settings_cls), *misspelling_hints(settings_cls)]


def misspelling_hints(settings_cls: type[BaseSettings]) -> list[str]:
    """One line for each variable that is one typo away from a setting that is not set."""
    sources = EnvSettingsSource(settings_cls), DotEnvSettingsSource(settings_cls)
    variables = {name for source in sources for name in source.env_vars}
    fields = settings_cls.model_fields
    known = {*fields}
    known |= {f"{x}_file" for x in fields if fields[x].annotation in (SecretStr, SecretStr | None)}
    hints = []
    for name in sorted(variables - known):
        if len(name) >= SHORTEST and name.partition("__")[0] not in known:
            one_typo = 1 - 1.01 / len(name)
            hints += [
                f"{name.upper()} is not a setting: did you mean {setting.upper()}?"
                for setting in get_close_matches(name, known - variables, n=1, cutoff=one_typo)
            ]
    return hints
