"""Types that the schemas of several features share."""

from typing import Annotated

from pydantic import AfterValidator


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode: it has half of a surrogate pair") from None
    return text


# Text that Postgres can hold.
Storable = Annotated[str, AfterValidator(_storable)]
