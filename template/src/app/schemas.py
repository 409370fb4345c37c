"""What the schemas of several features share."""

from pydantic import AfterValidator


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode: it has half of a surrogate pair") from None
    return text


# For text that goes into Postgres: `Annotated[str, StringConstraints(...), STORABLE]`.
STORABLE = AfterValidator(_storable)
