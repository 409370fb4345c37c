#!/usr/bin/env python3
"""Stands in for kubectl, since there is no cluster: writes down what it is asked, and answers.

It plays the cluster of ``cluster.json`` beside it, and changes that as a cluster would: an undo
makes the version before ready again. ``kubectl kustomize`` is the real one.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
COMPONENT = "app.kubernetes.io/component"


def main(arguments: list[str]) -> int:
    if arguments[0] == "kustomize":
        os.execv(os.environ["REAL_KUBECTL"], ["kubectl", *arguments])
    cluster = json.loads((HERE / "cluster.json").read_text())
    namespace, words = arguments[1], arguments[2:]
    cluster["asked"].append({"namespace": namespace, "words": words, "config": _config()})
    code = answer(cluster, words)
    (HERE / "cluster.json").write_text(json.dumps(cluster))
    return code


def _config() -> str:
    path = os.environ.get("KUBECONFIG", "")
    return f"{Path(path).stat().st_mode & 0o777:o} {Path(path).read_text()}" if path else ""


def answer(cluster: dict[str, Any], words: list[str]) -> int:
    line = " ".join(words)
    if any(line.startswith(start) for start in cluster["fails"]):
        return 1
    if words[0] == "apply":
        cluster["asked"][-1]["objects"] = applied = _selected(words)
        return int(any(kind == cluster["refuses"] for kind in applied))
    if line.startswith("get job migrate"):
        sys.stdout.write(cluster["running"] if ".active" in line else cluster["migration"])
    elif line.startswith("logs job/migrate"):
        sys.stdout.write("the log of the migration\n")
    elif line.startswith("get deployments"):
        sys.stdout.writelines(f"{name} {n}\n" for name, n in cluster["revisions"].items())
    elif words[:2] == ["rollout", "status"]:
        return int(words[2].removeprefix("deployment/") in cluster["broken"])
    elif words[:2] == ["rollout", "undo"]:
        cluster["broken"], cluster["canary"] = [], "8 Healthy"
        cluster["generation"] = "8"
    elif line.startswith("get deployment api"):
        sys.stdout.write(cluster["generation"])
    elif line.startswith("get rollout api"):
        sys.stdout.write(cluster["canary"])
    elif line.startswith("get pods --output jsonpath"):
        sys.stdout.write("api-x ")
    elif words[0] == "logs":
        sys.stdout.write("the last lines of a pod\n")
    return 0


def _selected(words: list[str]) -> list[str]:
    """Return the objects of the file that the selector chooses, as kind/name."""
    file, selector = words[words.index("--filename") + 1], words[words.index("--selector") + 1]
    objects = filter(None, yaml.safe_load_all(Path(file).read_text()))
    return [
        f"{each['kind']}/{each['metadata']['name']}"
        for each in objects
        if _chooses(selector, each["metadata"].get("labels", {}))
    ]


def _chooses(selector: str, labels: dict[str, str]) -> bool:
    for requirement in selector.split(","):
        key, unequal, value = requirement.partition("!=")
        if not unequal:
            key, equal, value = requirement.partition("=")
            fits = labels.get(key) == value if equal else key in labels
            if requirement.startswith("!"):
                fits = key[1:] not in labels
        else:
            fits = labels.get(key) != value
        if not fits:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
