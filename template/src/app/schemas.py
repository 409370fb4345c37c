"""What the schemas of several features share."""

from pydantic import StringConstraints

# Text that goes into Postgres, which can't hold NUL: `Annotated[str, STORABLE]`.
STORABLE = StringConstraints(pattern=r"^[^\x00]*$")
# The same, with something to be seen in it.
NOT_BLANK = StringConstraints(
    pattern=r"^[^\x00]*[^\s\x00][^\x00]*$", strip_whitespace=True, min_length=1
)
