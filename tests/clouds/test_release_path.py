"""The first deployment as the pages describe it, against servers that answer as the clouds do.

Amazon's registry and its store of secrets are moto's, asked by Amazon's own command line. Docker
and the registries are ``docker_stand_in.py``. What moto does not have (stacks, tasks) only answers.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import generator, toolbox
from tests.clouds import docker_stand_in

PACKAGES = ("moto[server]==5.2.5", "awscli==1.46.3")
AMAZON = ("ecs_fargate", "aws_lambda")
SOURCE = "registry.example.com/group/service@sha256:" + "0f" * 32
ASKED = re.compile(r"\$\{Secret\}:(\w+)::")
# What is not asked of moto: the stack, its tasks, and the service itself.
AWS = """#!/bin/sh
case "$*" in
"ecr "* | "sts "*) exec "$REAL_AWS" "$@" ;;
*"'Url'"*) echo https://api.example.com ;;
*"'Image'"*) echo None ;;
*run-task*) echo arn:aws:ecs:eu-west-1:123456789012:task/cluster/42 ;;
*describe-tasks*) printf '0\\tEssential container in task exited\\n' ;;
*) echo answer ;;
esac
"""
GCLOUD = """#!/bin/sh
case "$*" in
*"images describe"*) grep --quiet "\\"$5\\": \\"application" "$(dirname "$0")/docker.json" ;;
*status.url*) echo https://service.a.run.app ;;
*"services list"*) ;;
*) echo answer ;;
esac
"""
GOOGLE = """PROJECT=project
REGION=europe-west1
REPOSITORY=europe-west1-docker.pkg.dev/project/images
ACCOUNT=service@project.iam.gserviceaccount.com
NETWORK=default
SUBNETWORK=default
DOMAIN=api.example.com
"""


@pytest.fixture(scope="module")
def amazon() -> Iterator[dict[str, str]]:
    """The variables with which Amazon's command line asks moto."""
    home = toolbox.BUILD / "moto"
    with toolbox.lock(toolbox.BUILD / "moto.lock"):
        if not (home / "complete").exists():
            subprocess.run([*toolbox.UV, "venv", "--quiet", "--clear", str(home)], check=True)
            install = [*toolbox.UV, "pip", "install", "--quiet", "--python", str(home), *PACKAGES]
            subprocess.run(install, check=True)
            (home / "complete").touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [str(home / "bin/moto_server"), "--port", str(port)], stderr=subprocess.DEVNULL
    )
    while not _listens(port):
        assert server.poll() is None
        time.sleep(0.1)
    yield {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_PAGER": "",
        "REAL_AWS": str(home / "bin/aws"),
    }
    server.terminate()
    server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with what stands in for the programs, and the registries' state."""
    folder = tmp_path / "bin"
    folder.mkdir()
    shutil.copy(docker_stand_in.__file__, folder)
    stand_in = f'exec "{sys.executable}" "{folder / "docker_stand_in.py"}" "$@"'
    for name, text in {
        "aws": AWS,
        "gcloud": GCLOUD,
        "curl": "#!/bin/sh\nprintf 200\n",
        "docker": f"#!/bin/sh\n{stand_in}\n",
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    state = {"logins": [], "images": {SOURCE: docker_stand_in.INDEX}, "pushed": {}}
    (folder / "docker.json").write_text(json.dumps(state))
    return folder


def sh(
    folder: Path, script: str, programs: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(programs), "/usr/bin", "/bin"])
    return subprocess.run(
        ["sh", "-e", "-c", script],
        cwd=folder,
        env={"PATH": path, "HOME": str(folder), "DEPLOY_TARGET": "service", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("deploy", AMAZON)
def test_the_documented_secret_has_every_key_that_a_task_needs(
    template: Path, tmp_path: Path, programs: Path, amazon: dict[str, str], deploy: str
) -> None:
    project = generator.render(template, tmp_path / "x", deploy=deploy, tracing="honeycomb")
    page = (project / "docs/deploy.md").read_text()
    [first, *_] = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    real = {"PATH": f"{Path(amazon['REAL_AWS']).parent}{os.pathsep}{os.environ['PATH']}"}
    first = first.replace("name service", f"name {deploy}")  # both are in the same moto
    done = sh(project, first, programs, **{**amazon, **real})
    assert done.returncode == 0, done.stderr
    read = f"aws secretsmanager get-secret-value --secret-id {deploy} --query SecretString"
    secret = sh(project, f"{read} --output text", programs, **{**amazon, **real}).stdout
    asked = {*ASKED.findall((project / "deploy/stack.yaml").read_text())}
    assert "HONEYCOMB_API_KEY" in asked
    assert {*json.loads(secret)} == asked


@pytest.mark.parametrize("deploy", [*AMAZON, "cloud_run"])
def test_the_documented_second_run_deploys_the_image_of_the_first(
    template: Path, tmp_path: Path, programs: Path, amazon: dict[str, str], deploy: str
) -> None:
    project = generator.render(template, tmp_path / "x", deploy=deploy)
    create = '"$REAL_AWS" ecr create-repository --image-tag-mutability IMMUTABLE --repository-name'
    assert sh(project, f"{create} {deploy}-images", programs, **amazon).returncode == 0
    parameters = GOOGLE if deploy == "cloud_run" else f"Repository={deploy}-images\n"
    (project / "deploy/parameters").write_text(parameters)
    release = f"sh deploy/ci.sh {SOURCE}"

    done = sh(project, release, programs, **amazon)
    assert done.returncode == 1
    assert "docker login registry.example.com" in done.stderr

    login = "echo password | docker login --username me --password-stdin registry.example.com"
    done = sh(project, f"{login}\n{release}\n{release}", programs, **amazon)
    assert done.returncode == 0, done.stderr
    [(image, media_type)] = json.loads((programs / "docker.json").read_text())["pushed"].items()
    assert done.stderr.count(f"{image} serves") == 2
    if deploy in AMAZON:  # Lambda refuses an index
        assert media_type == docker_stand_in.MANIFEST
