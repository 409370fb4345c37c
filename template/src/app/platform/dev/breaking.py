"""Breaking changes between two OpenAPI documents: what may break a client of the old one.

What a client sends may only become wider, what it receives only narrower. The table in
``tests/platform/dev/test_breaking.py`` has an example of each rule.
"""

import json
import subprocess
from collections.abc import Iterator
from functools import partial
from typing import Any

Schema = dict[str, Any]

MINIMA = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
MAXIMA = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
EXACT = ("pattern", "format", "const", "multipleOf")
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


def committed(base: str | None) -> tuple[str, Schema] | None:
    """The ``openapi.json`` of a Git revision: ``base``, the last tag, or the main branch.

    Nothing if there is none.
    """
    last_tag = _git("describe", "--tags", "--abbrev=0") or ""
    for revision in [base] if base else [last_tag.strip(), "origin/HEAD", "origin/main"]:
        if revision and (text := _git("show", f"{revision}:./openapi.json")):
            return revision, json.loads(text)
    return None


def _git(*arguments: str) -> str | None:
    command = ["git", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return result.stdout if result.returncode == 0 else None


def may_break(old: str, new: str) -> bool:
    """Whether a version announces breaking changes: a new major one or, before 1.0, a minor one."""
    before, after = (tuple(map(int, version.split(".")[:2])) for version in (old, new))
    return after[:1] > before[:1] or (after[0] == 0 and after > before)


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """The breaking changes from one document to the other, one sentence each."""
    return list(dict.fromkeys(_Comparison(old, new).documents()))


class _Comparison:
    def __init__(self, old: Schema, new: Schema) -> None:
        self.old = old
        self.new = new
        self.open: set[tuple[str, str, bool]] = set()  # references being compared: cycles end here

    def documents(self) -> Iterator[str]:
        for path, before in self.old["paths"].items():
            after = self.new["paths"].get(path, {})
            for method in filter(before.__contains__, METHODS):
                name = f"{method.upper()} {path}"
                if method in after:
                    yield from self._operation(before[method], after[method], name)
                else:
                    yield f"{name}: was removed"

    def _operation(self, old: Schema, new: Schema, at: str) -> Iterator[str]:
        if old.get("operationId") != new.get("operationId"):
            yield f"{at}: operationId changed, after which clients name their methods"
        allowed = [_requirement(each) for each in new.get("security", [{}])]
        for each in old.get("security", [{}]):
            if not any(need <= _requirement(each) for need in allowed):
                yield f"{at}: needs other authentication"
        yield from self._parameters(old, new, at)
        yield from self._body(old.get("requestBody"), new.get("requestBody"), at)
        for status, before in old["responses"].items():
            if status not in new["responses"]:
                if status[0] in "23":
                    yield f"{at}: no longer answers {status}"
                continue
            where = f"{at} {status}"
            before, after = self._resolve(before, new["responses"][status])
            for header in before.get("headers", {}):
                if header not in after.get("headers", {}):
                    yield f"{where}: header {header} was removed"
            yield from self._content(before, after, False, where)

    def _parameters(self, old: Schema, new: Schema, at: str) -> Iterator[str]:
        before, after = (
            {(p["in"], p["name"]): p for p in map(partial(_target, document), all_)}
            for document, all_ in (
                (self.old, old.get("parameters", [])),
                (self.new, new.get("parameters", [])),
            )
        )
        for key, parameter in before.items():
            name = f"{at}: {key[0]} parameter {key[1]}"
            if key not in after:
                yield f"{name} was removed"
                continue
            if after[key].get("required") and not parameter.get("required"):
                yield f"{name} became required"
            schemas = parameter.get("schema", {}), after[key].get("schema", {})
            yield from self._schema(*schemas, True, name)
        for key in after.keys() - before.keys():
            if after[key].get("required"):
                yield f"{at}: new required {key[0]} parameter {key[1]}"

    def _body(self, old: Schema | None, new: Schema | None, at: str) -> Iterator[str]:
        old, new = self._resolve(old or {}, new or {})
        if new.get("required") and not old.get("required"):
            yield f"{at}: the request body became required"
        if old and not new:
            yield f"{at}: the request body was removed"
        elif old:
            yield from self._content(old, new, True, f"{at} body")

    def _content(self, old: Schema, new: Schema, sent: bool, at: str) -> Iterator[str]:
        after = new.get("content", {})
        for media, before in old.get("content", {}).items():
            if media not in after:
                yield f"{at}: content type {media} was removed"
            else:
                schemas = before.get("schema", {}), after[media].get("schema", {})
                yield from self._schema(*schemas, sent, at)

    def _schema(self, old: Schema, new: Schema, sent: bool, at: str) -> Iterator[str]:
        pair = old.get("$ref", ""), new.get("$ref", ""), sent
        if any(pair[:2]):
            if pair in self.open:
                return
            self.open.add(pair)
        try:
            old, new = self._resolve(old, new)
            olds, news = _alternatives(old), _alternatives(new)
            # Each value that was accepted still is; each that is returned is one that was.
            for part in olds if sent else news:
                pairs = [(part, each) for each in news] if sent else [(each, part) for each in olds]
                alike = [each for each in pairs if each[0].get("type") == each[1].get("type")]
                found = (list(self._value(*each, sent, at)) for each in alike or pairs)
                yield from min(found, key=len)
        finally:
            self.open.discard(pair)

    def _value(self, old: Schema, new: Schema, sent: bool, at: str) -> Iterator[str]:
        """Compare two schemas without alternatives."""
        if "$ref" in old or "$ref" in new:
            yield from self._schema(old, new, sent, at)
            return
        wide, narrow = (new, old) if sent else (old, new)
        types = narrow.get("type"), wide.get("type")
        if types[1] and types[0] != types[1] and types != ("integer", "number"):
            yield f"{at}: type {old.get('type')} became {new.get('type')}"
            return
        if "enum" in wide:
            lost = [each for each in narrow.get("enum", [...]) if each not in wide["enum"]]
            if lost:
                what = "no longer accepts" if sent else "may answer"
                known = ", ".join(map(str, lost)) if lost != [...] else "any value"
                yield f"{at}: {what} {known}"
        yield from self._limits(wide, narrow, sent, at)
        yield from self._fields(old, new, sent, at)
        if "items" in wide:
            yield from self._schema(old.get("items", {}), new.get("items", {}), sent, f"{at}[]")
        if isinstance(wide.get("additionalProperties"), dict):
            values = (each.get("additionalProperties") or {} for each in (old, new))
            maps = [each if isinstance(each, dict) else {} for each in values]
            yield from self._schema(maps[0], maps[1], sent, f"{at}.*")

    def _limits(self, wide: Schema, narrow: Schema, sent: bool, at: str) -> Iterator[str]:
        verb = "became stricter" if sent else "became looser"
        for name in (*MINIMA, *MAXIMA):
            if name not in wide:
                continue
            sign = 1 if name in MINIMA else -1
            if name not in narrow or sign * wide[name] > sign * narrow[name]:
                yield f"{at}: {name} {verb}"
        for name in EXACT:
            if name in wide and wide[name] != narrow.get(name):
                yield f"{at}: {name} changed"

    def _fields(self, old: Schema, new: Schema, sent: bool, at: str) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        needed, need = set(old.get("required", ())), set(new.get("required", ()))
        for name, schema in before.items():
            if name not in after:
                yield f"{at}.{name}: was removed"
            else:
                yield from self._schema(schema, after[name], sent, f"{at}.{name}")
        for name in sorted(need - needed if sent else needed - need):
            if name in after:
                yield f"{at}.{name}: " + ("became required" if sent else "may be missing")

    def _resolve(self, old: Schema, new: Schema) -> tuple[Schema, Schema]:
        return _target(self.old, old), _target(self.new, new)


def _target(document: Schema, part: Schema) -> Schema:
    """The part of the document that a reference is for."""
    while "$ref" in part:
        target: Any = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        part = target
    return part


def _alternatives(schema: Schema) -> list[Schema]:
    parts: list[Schema] = schema.get("anyOf") or schema.get("oneOf") or []
    if not parts and isinstance(types := schema.get("type"), list):
        parts = [{**schema, "type": each} for each in types]
    return parts or [schema]


def _requirement(alternative: dict[str, list[str]]) -> set[str]:
    """The schemes and scopes that one alternative of ``security`` needs."""
    scopes = {f"{name} {scope}" for name, scopes in alternative.items() for scope in scopes}
    return {*alternative, *scopes}
