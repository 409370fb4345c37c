"""Base classes for the schemas of requests and responses, and constraints for text."""

from dataclasses import dataclass
from typing import Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SecretStr,
    StringConstraints,
)
from pydantic_core import CoreSchema, PydanticKnownError, core_schema


def _encodable(secret: SecretStr) -> SecretStr:
    try:
        secret.get_secret_value().encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode, without lone surrogates") from None
    return secret


# Text without NUL, which Postgres can't store: `Annotated[str, STORABLE]`.
STORABLE = StringConstraints(pattern=r"^[^\x00]*$")
# The same, with at least one visible character. Put `STRIPPED` last, so that the lengths in the
# OpenAPI document apply to the text as it is sent.
NOT_BLANK = StringConstraints(pattern=r"^[^\x00]*[^\s\x00-\x1f][^\x00]*$", min_length=1)
STRIPPED = AfterValidator(str.strip)
# A secret that can be hashed: Pydantic checks this for `str`, not for `SecretStr`.
ENCODABLE = AfterValidator(_encodable)


@dataclass(frozen=True, slots=True)
class SecretLength:
    """The length of a secret, in characters. The error of ``Field(min_length=12)`` says items."""

    least: int
    most: int

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        least = {"minLength": self.least} if self.least else {}
        return {**handler(schema), **least, "maxLength": self.most}

    def _check(self, secret: SecretStr) -> SecretStr:
        if len(secret) < self.least:
            raise PydanticKnownError("string_too_short", {"min_length": self.least})
        if len(secret) > self.most:
            raise PydanticKnownError("string_too_long", {"max_length": self.most})
        return secret


class RequestModel(BaseModel):
    """A body of a request: unknown fields are refused (422), and so are NaN and infinite numbers.

    A misspelt optional field would otherwise be ignored without a word.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ResponseModel(BaseModel):
    """A body of a response, also from an object with these attributes, such as a database row.

    NaN and infinite numbers are an error of the route: JSON has neither, and ``null`` in their
    place would not match the documented schema.
    """

    model_config = ConfigDict(from_attributes=True, allow_inf_nan=False)


UNSET = object()


class PartialModel(ResponseModel):
    """Makes all fields of a response optional: ``class PartialOrder(PartialModel, OrderRead)``.

    Fields that are not set are missing from the JSON; ``None`` is a value like any other.
    """

    @classmethod
    def __pydantic_init_subclass__(cls, **_options: Any) -> None:
        for field in cls.model_fields.values():
            field.default_factory = lambda: UNSET
            field.exclude_if = lambda value: value is UNSET
        cls.model_rebuild(force=True)
