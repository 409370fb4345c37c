"""Constraints for text in request schemas."""

from pydantic import AfterValidator, StringConstraints

# Text without NUL, which Postgres can't store: `Annotated[str, STORABLE]`.
STORABLE = StringConstraints(pattern=r"^[^\x00]*$")
# The same, with at least one visible character. Put `STRIPPED` last, so that the lengths in the
# OpenAPI document apply to the text as it is sent.
NOT_BLANK = StringConstraints(pattern=r"^[^\x00]*[^\s\x00-\x1f][^\x00]*$", min_length=1)
STRIPPED = AfterValidator(str.strip)
