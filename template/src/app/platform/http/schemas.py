"""Constraints that the schemas of several features share."""

from pydantic import AfterValidator, StringConstraints

# Text for Postgres, which can't store NUL: `Annotated[str, STORABLE]`.
STORABLE = StringConstraints(pattern=r"^[^\x00]*$")
# The same, with a visible character. `STRIPPED` comes last, so that the lengths in the OpenAPI
# document hold for the text as it is sent.
NOT_BLANK = StringConstraints(pattern=r"^[^\x00]*[^\s\x00-\x1f][^\x00]*$", min_length=1)
STRIPPED = AfterValidator(str.strip)
