"""Stands in for Docker: the registries of ``docker.json`` beside it, as real ones answer.

An image of a private registry is pulled after a login only. The engine keeps images in containerd's
store, so that a push sends the index of an image unless it is told which platform. A tag of a
registry with immutable tags is pushed once. What reaches Amazon's registry is put there.
"""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

STATE = Path(__file__).with_name("docker.json")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
WITH_VALUE = ("--platform", "--username")


def main(command: str, *arguments: str) -> None:
    state = json.loads(STATE.read_text())
    given = dict(pairwise(arguments))
    names = [
        each
        for before, each in zip(("", *arguments), arguments, strict=False)
        if not each.startswith("--") and before not in WITH_VALUE
    ]
    match command:
        case "login":
            if not sys.stdin.read().strip():
                sys.exit("Error: password is empty")
            state["logins"].append(names[0].removeprefix("https://"))
        case "pull":
            _refuse_stranger(state, names[0])
            if names[0] not in state["images"]:
                sys.exit(f"Error response from daemon: manifest for {names[0]} not found")
        case "tag":
            state["images"][names[1]] = state["images"][names[0]]
        case "push":
            _refuse_stranger(state, names[0])
            _push(state, names[0], MANIFEST if "--platform" in given else INDEX)
    STATE.write_text(json.dumps(state))


def _refuse_stranger(state: dict[str, Any], image: str) -> None:
    registry = image.partition("/")[0]
    if registry not in state["logins"]:
        sys.exit(f"Error response from daemon: error from registry: denied: {registry}")


def _push(state: dict[str, Any], image: str, media_type: str) -> None:
    if image in state["pushed"]:
        sys.exit(f"tag invalid: the tag of {image} already exists and cannot be overwritten")
    state["pushed"][image] = media_type
    registry, _, rest = image.partition("/")
    if ".ecr." in registry:
        name, _, tag = rest.partition(":")
        manifest = json.dumps({"schemaVersion": 2, "mediaType": media_type, "layers": []})
        put = ["ecr", "put-image", "--repository-name", name, "--image-tag", tag]
        command = [os.environ["REAL_AWS"], *put, "--image-manifest", manifest]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main(*sys.argv[1:])
