"""The rules of breaking changes, by example."""

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi import FastAPI

from app.cli import cli
from app.platform import about
from app.platform.dev.breaking import breaking_changes, may_break

Edit = Callable[[dict[str, Any]], object]

THING: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 50},
        "color": {"type": "string", "enum": ["red", "green"]},
        "size": {"type": "integer", "minimum": 1},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Part"}},
    },
}
PART = {
    "type": "object",
    "properties": {"number": {"type": "integer"}, "part": {"$ref": "#/components/schemas/Part"}},
}


def content(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


DOCUMENT: dict[str, Any] = {
    "info": {"version": "1.2.0"},
    "paths": {
        "/things": {
            "post": {
                "operationId": "make",
                "security": [{"bearer": []}],
                "parameters": [
                    {"in": "query", "name": "limit", "schema": {"type": "integer", "maximum": 9}}
                ],
                "requestBody": {"required": True, "content": content("In")},
                "responses": {
                    "201": {"content": content("Out"), "headers": {"ETag": {}}},
                    "422": {"content": content("Out")},
                },
            }
        }
    },
    "components": {"schemas": {"In": THING, "Out": copy.deepcopy(THING), "Part": PART}},
}


def operation(document: dict[str, Any]) -> Any:
    return document["paths"]["/things"]["post"]


def field(schema: str, name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document["components"]["schemas"][schema]["properties"][name]


def put(place: Callable[[dict[str, Any]], Any], **values: Any) -> Edit:
    return lambda document: place(document).update(values)


def drop(place: Callable[[dict[str, Any]], Any], name: str) -> Edit:
    return lambda document: place(document).pop(name)


def schema(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document["components"]["schemas"][name]


def parameters(*more: dict[str, Any]) -> Edit:
    return lambda document: operation(document).update(parameters=list(more))


LIMIT = operation(DOCUMENT)["parameters"][0]
TAG = {"in": "query", "name": "tag", "schema": {"type": "string"}}
NULL = {"type": "null"}
TEXT = {"type": "string"}

BREAKING = {
    "path removed": (lambda d: d["paths"].clear(), "POST /things: was removed"),
    "method removed": (drop(lambda d: d["paths"]["/things"], "post"), "was removed"),
    "operation id": (put(operation, operationId="create"), "operationId changed"),
    "scope added": (put(operation, security=[{"bearer": ["admin"]}]), "other authentication"),
    "scheme changed": (put(operation, security=[{"key": []}]), "other authentication"),
    "parameter removed": (parameters(), "query parameter limit was removed"),
    "parameter added": (parameters(LIMIT, TAG | {"required": True}), "new required query"),
    "parameter required": (parameters(LIMIT | {"required": True}), "limit became required"),
    "parameter limited": (
        parameters(LIMIT | {"schema": {"type": "integer", "maximum": 8}}),
        "maximum became stricter",
    ),
    "body removed": (drop(operation, "requestBody"), "body was removed"),
    "content type": (
        lambda d: operation(d)["requestBody"].update(content={"text/csv": {}}),
        "application/json was removed",
    ),
    "status": (lambda d: operation(d)["responses"].pop("201"), "no longer answers 201"),
    "header": (lambda d: operation(d)["responses"]["201"]["headers"].clear(), "ETag was removed"),
    "sent: field removed": (
        drop(lambda d: schema("In")(d)["properties"], "size"),
        "body.size: was",
    ),
    "sent: field required": (put(schema("In"), required=["name", "size"]), "size: became required"),
    "sent: type": (put(field("In", "size"), type="string"), "type integer became string"),
    "sent: null refused": (put(field("In", "note"), anyOf=[TEXT]), "body.note: type null"),
    "sent: enum": (put(field("In", "color"), enum=["red"]), "no longer accepts green"),
    "sent: new enum": (put(field("In", "name"), enum=["x"]), "no longer accepts any value"),
    "sent: longer": (put(field("In", "name"), minLength=2), "minLength became stricter"),
    "sent: shorter": (put(field("In", "name"), maxLength=49), "maxLength became stricter"),
    "sent: new limit": (put(field("In", "size"), maximum=9), "maximum became stricter"),
    "sent: pattern": (put(field("In", "name"), pattern="^a"), "pattern changed"),
    "got: field removed": (drop(lambda d: schema("Out")(d)["properties"], "size"), "201.size: was"),
    "got: field optional": (put(schema("Out"), required=[]), "201.name: may be missing"),
    "got: type": (put(field("Out", "size"), type="number"), "type integer became number"),
    "got: null": (put(field("Out", "color"), type=["string", "null"]), "type string became null"),
    "got: enum": (put(field("Out", "color"), enum=["red", "green", "blue"]), "may answer blue"),
    "nested": (put(field("Part", "number"), type="string"), "parts[].number: type integer"),
}
COMPATIBLE: dict[str, Edit] = {
    "path added": lambda d: d["paths"].update({"/more": {}}),
    "scope removed": put(operation, security=[{}]),
    "scheme added": put(operation, security=[{"bearer": []}, {"key": []}]),
    "optional parameter": parameters(LIMIT, TAG),
    "body optional": lambda d: operation(d)["requestBody"].update(required=False),
    "error no longer": lambda d: operation(d)["responses"].pop("422"),
    "sent: optional field": lambda d: schema("In")(d)["properties"].update(more=TEXT),
    "sent: no longer required": put(schema("In"), required=[]),
    "sent: wider type": put(field("In", "size"), type="number"),
    "sent: null": put(field("In", "color"), type=["string", "null"]),
    "sent: enum": put(field("In", "color"), enum=["red", "green", "blue"]),
    "sent: limits": put(field("In", "name"), minLength=0, maxLength=60),
    "got: field": lambda d: schema("Out")(d)["properties"].update(more=TEXT),
    "got: always there": put(schema("Out"), required=["name", "size"]),
    "got: enum": put(field("Out", "color"), enum=["red"]),
    "got: no null": put(field("Out", "note"), anyOf=[TEXT]),
    "got: limits": put(field("Out", "name"), maxLength=40),
    "examples": put(field("In", "name"), examples=["Anchor"], description="Its name"),
}


def changed(edit: Edit) -> dict[str, Any]:
    document = copy.deepcopy(DOCUMENT)
    edit(document)
    return document


@pytest.mark.parametrize("rule", BREAKING)
def test_a_breaking_change_is_found(rule: str) -> None:
    edit, sentence = BREAKING[rule]
    assert any(sentence in each for each in breaking_changes(DOCUMENT, changed(edit)))


@pytest.mark.parametrize("rule", COMPATIBLE)
def test_a_compatible_change_is_accepted(rule: str) -> None:
    assert breaking_changes(DOCUMENT, changed(COMPATIBLE[rule])) == []


async def test_a_document_is_compatible_with_itself(app: FastAPI) -> None:
    document = json.loads(json.dumps(app.openapi()))
    assert breaking_changes(document, document) == []


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        ("1.2.0", "1.3.0", False),
        ("1.2.0", "2.0.0", True),
        ("0.2.0", "0.2.1", False),
        ("0.2.0", "0.3.0", True),
        ("0.2.0", "1.0.0", True),
    ],
)
def test_a_version_announces_breaking_changes(old: str, new: str, allowed: bool) -> None:
    assert may_break(old, new) is allowed


def test_the_command_compares_with_the_last_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(about, "version", lambda: "1.2.0")
    git("init", "--quiet")

    def contract() -> tuple[int, str]:
        result = CliRunner().invoke(cli, ["contract"])
        return result.exit_code, result.output

    commit("nothing.txt", "")
    assert contract() == (0, "There is no earlier openapi.json to compare with.\n")
    CliRunner().invoke(cli, ["openapi", "--output", "openapi.json"])
    commit("openapi.json", Path("openapi.json").read_text())
    git("tag", "v1.2.0")
    commit("nothing.txt", "more")
    assert contract() == (0, "No breaking change since v1.2.0.\n")
    document = json.loads(Path("openapi.json").read_text())
    document["paths"]["/gone"] = {"get": {"responses": {}}}
    commit("openapi.json", json.dumps(document))
    git("tag", "v1.2.1")
    commit("nothing.txt", "even more")
    code, output = contract()
    assert code == 1
    assert "GET /gone: was removed" in output
    assert "`uv version --bump major`" in output
    monkeypatch.setattr(about, "version", lambda: "2.0.0")
    assert contract()[0] == 0


def git(*arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def commit(name: str, text: str) -> None:
    Path(name).write_text(text)
    git("add", name)
    git("commit", "--quiet", "-m", "x")
