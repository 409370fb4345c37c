"""The order of time-outs: each is shorter than the one around it, or it never applies.

A settings class lists its pairs in ``shorter_than: ClassVar[Pairs] = (("inner", "outer"),)``.
docs/timeouts.md has all time-outs on one page.
"""

from pydantic_settings import BaseSettings

Pairs = tuple[tuple[str, str], ...]


def pairs(settings_cls: type[BaseSettings]) -> list[tuple[str, str]]:
    """The settings of which the first is shorter than the second, of a class and its bases."""
    return [
        pair for cls in reversed(settings_cls.__mro__) for pair in vars(cls).get("shorter_than", ())
    ]


def out_of_order(settings: BaseSettings) -> list[str]:
    """One sentence for each time-out that is not shorter than the one around it."""
    found = []
    for inner, outer in pairs(type(settings)):
        seconds, limit = getattr(settings, inner), getattr(settings, outer)
        if seconds >= limit:
            found.append(
                f"{inner.upper()} ({seconds:g} s) is not less than {outer.upper()} ({limit:g} s),"
                " which would end first: lower the one or raise the other"
            )
    return found
