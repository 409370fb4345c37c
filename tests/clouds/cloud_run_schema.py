"""Compare documents for Cloud Run, and alerting policies, with Google's description of its APIs.

Run with ``google-api-python-client`` installed, which has the description (a discovery document) as
a file. Prints what is wrong, one line each.
"""

import json
import re
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

DOCUMENTS = "discovery_cache/documents"
TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}
FORMATS = {"int64": "integer"}  # which the description calls strings, and YAML writes as numbers
GOOGLES = ("run.googleapis.com/", "autoscaling.knative.dev/")
WORD = re.compile(r"\w+")
# What the description calls the resource of a document, and the one of its template. That of a
# worker pool has the annotations of a service.
ABOVE = {"Service": "Service", "WorkerPool": "Service", "Job": "Job"}
BELOW = {"Service": "Revision", "WorkerPool": "Revision", "Job": "Execution"}


class Schemas:
    """The schemas of an API, by name."""

    def __init__(self, api: str) -> None:
        document = files("googleapiclient").joinpath(DOCUMENTS, f"{api}.json")
        text = document.read_text(encoding="utf-8")
        self._all: dict[str, Any] = json.loads(text)["schemas"]

    def faults(self, document: dict[str, Any]) -> list[str]:
        kind = document["kind"]
        below = document["spec"]["template"]
        return [
            *self._faults({"$ref": kind}, document, kind),
            *self._annotations(document["metadata"], ABOVE[kind]),
            *self._annotations(below.get("metadata", {}), BELOW[kind]),
        ]

    def faults_of_policy(self, policy: dict[str, Any], path: str) -> list[str]:
        return self._faults({"$ref": "AlertPolicy"}, policy, path)

    def _annotations(self, metadata: dict[str, Any], resource: str) -> list[str]:
        """Return the annotations that this resource does not have, by the description's list."""
        text = self._all["ObjectMeta"]["properties"]["annotations"]["description"]
        known = dict(re.findall(r"\* `([^`]+)`: ([^*]+)", text))
        return [
            f"{resource}: there is no annotation {name}"
            for name in metadata.get("annotations", {})
            if name.startswith(GOOGLES)
            and not {resource, "All"} & {*WORD.findall(known.get(name, ""))}
        ]

    def _faults(self, schema: dict[str, Any], value: Any, path: str) -> list[str]:
        schema = self._all[schema["$ref"]] if "$ref" in schema else schema
        match schema["type"], value:
            case "object", dict():
                known, other = schema.get("properties", {}), schema.get("additionalProperties")
                found = []
                for name, each in value.items():
                    below = f"{path}.{name}"
                    if name in known or other:
                        found += self._faults(known.get(name, other), each, below)
                    else:
                        found.append(f"{below}: there is no such field")
                return found
            case "array", list():
                return [
                    fault
                    for number, each in enumerate(value)
                    for fault in self._faults(schema["items"], each, f"{path}[{number}]")
                ]
            case "any", _:
                return []
            case ("object" | "array") as kind, _:
                return [f"{path}: is not of type {kind}"]
        kind = FORMATS.get(schema.get("format", ""), schema["type"])
        right = isinstance(value, TYPES[kind]) and (
            kind == "boolean" or not isinstance(value, bool)
        )
        if right and "enum" in schema and value not in schema["enum"]:
            return [f"{path}: is none of {', '.join(schema['enum'])}"]
        return [] if right else [f"{path}: is not of type {kind}"]


if __name__ == "__main__":
    schemas, alerts = Schemas("run.v1"), Schemas("monitoring.v3")
    documents = yaml.safe_load_all(Path(sys.argv[1]).read_text(encoding="utf-8"))
    wrong = [fault for each in documents for fault in schemas.faults(each)]
    for file in map(Path, sys.argv[2:]):
        policy = yaml.safe_load(file.read_text(encoding="utf-8"))
        wrong += alerts.faults_of_policy(policy, file.stem)
    sys.stdout.write("".join(f"{fault}\n" for fault in wrong))
    sys.exit(bool(wrong))
