"""What every operation documents: a summary, a tag, examples, problems."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from tests.platform.http.test_openapi import TEMPLATE_TAGS

# A schema with one of these needs no example.
TELLING = {"examples", "example", "enum", "const", "default"}


async def test_every_operation_is_described(app: FastAPI) -> None:
    document = app.openapi()
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    for name, operation in operations(document):
        assert operation.get("summary"), f"{name} has no summary"
        assert operation.get("description"), f"{name} needs a docstring"
        assert described.intersection(operation["tags"]), f"{name} needs a Tag(name, description)"
        assert "application/problem+json" in operation["responses"]["default"]["content"], name


async def test_every_body_has_an_example(app: FastAPI) -> None:
    document = app.openapi()
    for name, operation in operations(document):
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for body in bodies:
            for media in body.get("content", {}).values():
                missing = list(without_example(document, media.get("schema", {})))
                assert not missing, f"{name}: give these `Field(examples=[...])`: {missing}"


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The operations of the template's own routes; extend ``TEMPLATE_TAGS`` to hold yours."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if TEMPLATE_TAGS.intersection(operation.get("tags", ())):
                yield f"{method.upper()} {path}", operation


def without_example(
    document: dict[str, Any], schema: dict[str, Any], at: str = ""
) -> Iterator[str]:
    """The fields of a schema for which a reader has to invent a value."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield from without_example(document, document["components"]["schemas"][name], name)
    elif TELLING.intersection(schema):
        return
    elif "properties" in schema:
        for name, part in schema["properties"].items():
            yield from without_example(document, part, f"{at}.{name}")
    elif "items" in schema:
        yield from without_example(document, schema["items"], at)
    elif parts := schema.get("anyOf"):
        if {"type": "null"} not in parts:  # null is an example
            yield from (each for part in parts for each in without_example(document, part, at))
    elif schema and schema.get("additionalProperties") is not True and "type" in schema:
        yield at


def test_examples_are_valid() -> None:
    for model in models(BaseModel):
        schema = model.model_json_schema()
        for example in schema.get("examples", []):
            model.model_validate(example)
        for name, field in model.model_fields.items():
            for example in field.examples or ():
                model.__pydantic_validator__.validate_assignment(
                    model.model_construct(), name, example
                )


def models(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The models of this service."""
    for model in base.__subclasses__():
        if model.__module__.startswith("app."):
            yield model
        yield from models(model)
