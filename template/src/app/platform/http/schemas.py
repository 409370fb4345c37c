"""What the schemas of several features share."""

from pydantic import AfterValidator, StringConstraints

# Text that goes into Postgres, which can't hold NUL: `Annotated[str, STORABLE]`.
STORABLE = StringConstraints(pattern=r"^[^\x00]*$")
# The same, with something to be seen in it. Text is stripped last, by `STRIPPED`, so that what the
# API document says of its length holds for what is sent.
NOT_BLANK = StringConstraints(pattern=r"^[^\x00]*[^\s\x00-\x1f][^\x00]*$", min_length=1)
STRIPPED = AfterValidator(str.strip)
