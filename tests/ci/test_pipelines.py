"""Both pipelines, for each way to deploy: valid, linted, told what they need; their shell runs."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from extensions import options
from tests import generator
from tests.ci import validators
from tests.ci.validators import GITHUB, GITLAB

Check = Callable[[Path], str]
DEPLOYS = [option.choice for option in options.load() if option.question == "deploy"]
CHECKS: list[tuple[str, Check]] = [
    *[("github", check) for check in (validators.schema, validators.yamllint)],
    *[("github", check) for check in (validators.zizmor, validators.actionlint)],
    *[("github", validators.shellcheck), ("gitlab", validators.shellcheck)],
    *[("gitlab", check) for check in (validators.schema, validators.yamllint)],
    ("gitlab", validators.renovate),
]
DIGEST = "sha256:" + "0f" * 32


@pytest.fixture(scope="module")
def projects(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A service for each pipeline and each way to deploy, by `pipeline-deploy`."""
    folder = tmp_path_factory.mktemp("ci")
    return {
        f"{ci}-{deploy}": generator.render(
            template, folder / f"{ci}-{deploy}", ci=ci, deploy=deploy
        )
        for ci in ("github", "gitlab")
        for deploy in DEPLOYS
    }


@pytest.fixture(params=DEPLOYS)
def deploy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(("ci", "check"), CHECKS, ids=lambda each: getattr(each, "__name__", each))
def test_nothing_is_complained_of(
    projects: dict[str, Path], deploy: str, ci: str, check: Check
) -> None:
    assert check(projects[f"{ci}-{deploy}"]) == ""


BROKEN: list[tuple[str, Check, str, str, str]] = [
    ("gitlab", validators.schema, "needs: [publish]", "needs: publish", "deploy"),
    ("gitlab", validators.yamllint, "stage: deploy", "stage:  deploy", "colons"),
    ("gitlab", validators.renovate, '"enabled": false', '"enabled": "no"', "enabled"),
    ("gitlab", validators.shellcheck, 'ci.sh "$IMAGE"', "ci.sh $IMAGE", "SC2086"),
    ("github", validators.schema, "timeout-minutes: 30", "timeout-minutes: long", "timeout"),
    ("github", validators.yamllint, "needs: publish", "needs:  publish", "colons"),
    ("github", validators.actionlint, "needs: publish", "needs: nobody", "nobody"),
    ("github", validators.zizmor, "persist-credentials: false", "fetch-depth: 1", "artipacked"),
]


@pytest.mark.parametrize(("ci", "check", "text", "worse", "said"), BROKEN)
def test_what_is_broken_is_complained_of(
    template: Path, tmp_path: Path, ci: str, check: Check, text: str, worse: str, said: str
) -> None:
    project = generator.render(template, tmp_path / "service", ci=ci)
    pipeline = {"github": GITHUB, "gitlab": GITLAB}[ci]
    file = project / ("renovate.json" if check is validators.renovate else pipeline)
    assert text in file.read_text()
    file.write_text(file.read_text().replace(text, worse))
    assert said in check(project)


def test_the_job_is_told_all_that_the_script_asks_for(
    projects: dict[str, Path], deploy: str
) -> None:
    project = projects[f"github-{deploy}"]
    asked = set(re.findall(r': "\$\{([A-Z_]+):\?', (project / "deploy/ci.sh").read_text()))
    job = yaml.safe_load((project / GITHUB).read_text())["jobs"]["deploy"]
    told = {name for step in job["steps"] for name in step.get("env", {})} | set(job["env"])
    documented = set(
        re.findall(r"^\| ([A-Z_]+) \|", (project / "docs/ci.md").read_text(), re.MULTILINE)
    )
    assert asked <= told
    assert told - {"IMAGE"} == documented


def test_both_pipelines_do_the_same(projects: dict[str, Path], deploy: str) -> None:
    """A check that one of them has and the other lacks would be noticed by nobody."""
    github, gitlab = (
        (projects[f"{ci}-{deploy}"] / file).read_text()
        for ci, file in (("github", GITHUB), ("gitlab", GITLAB))
    )
    for both in (
        "uv run prek run --all-files",
        "uv audit --locked",
        "uv run pytest --cov",
        "uv run pytest tests/system",
        "uv run app openapi --output openapi.json",
        "uv run app contract",
        "make client-python client-typescript",
        "postgresql+asyncpg://postgres@",
        "sh .ci/try.sh",
        "sbom.spdx.json",
        'sh deploy/ci.sh "$IMAGE"',
    ):
        assert both in github, both
        assert both in gitlab, both


def test_make_ci_runs_what_the_pipelines_run(projects: dict[str, Path], deploy: str) -> None:
    project = projects[f"github-{deploy}"]
    done = subprocess.run(
        ["make", "-n", "ci"], cwd=project, capture_output=True, text=True, check=True
    )
    steps = yaml.safe_load((project / GITHUB).read_text())["jobs"]
    checks = [
        step["run"]
        for job in ("check", "audit", "test")
        for step in steps[job]["steps"]
        if "run" in step
    ]
    commands = [re.split(r" --(?:show-diff|locked)| #", each)[0] for each in checks]
    github_only = {"uv run zizmor --offline .github", "uv run app openapi --output openapi.json"}
    assert len(commands) >= 6
    assert [each for each in commands if each not in done.stdout and each not in github_only] == []


def test_what_was_published_by_digest_is_what_is_deployed(
    projects: dict[str, Path], deploy: str, tmp_path: Path
) -> None:
    """The scripts of both jobs run as they stand; `docker` and the rest only take notes."""
    project = projects[f"gitlab-{deploy}"]
    (tmp_path / "deploy").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "deploy/ci.sh").write_text('echo "deployed $1" >>calls\n')
    for program in ("docker", "apk"):
        stand_in = tmp_path / "bin" / program
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text(f'#!/bin/sh\ncat >/dev/null\necho "{program} $*" >>calls\n')
        stand_in.chmod(0o755)
    (tmp_path / "built.json").write_text(f'{{\n  "containerimage.digest": "{DIGEST}"\n}}\n')
    given = {
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
        "CI_REGISTRY": "registry.example.com",
        "CI_REGISTRY_USER": "ci",
        "CI_REGISTRY_PASSWORD": "s3cret",
        "CI_REGISTRY_IMAGE": "registry.example.com/group/service",
        "CI_COMMIT_SHA": "0123abc",
        "DEPLOY_TOKEN": "t0ken",
        "DEPLOY_TARGET": "there",
    }
    _sh(validators.script("publish", project), tmp_path, given)
    name, _, image = (tmp_path / "published.env").read_text().strip().partition("=")
    assert (name, image) == ("IMAGE", f"registry.example.com/group/service@{DIGEST}")
    _sh(validators.script("deploy", project), tmp_path, given | {name: image})
    calls = (tmp_path / "calls").read_text()
    assert calls.splitlines()[-1] == f"deployed {image}"
    assert "--tag registry.example.com/group/service:0123abc" in calls
    assert "--build-arg VERSION=1.2.3" in calls
    assert "s3cret" not in calls


def test_without_a_target_nothing_is_deployed(
    projects: dict[str, Path], deploy: str, tmp_path: Path
) -> None:
    """GitLab decides a job's rules before it knows the variables of the job's environment."""
    project = projects[f"gitlab-{deploy}"]
    job = yaml.safe_load((project / GITLAB).read_text())["deploy"]
    asked = {name for rule in job["rules"] for name in re.findall(r"\$(\w+)", rule["if"])}
    assert asked == {"CI_COMMIT_BRANCH", "CI_DEFAULT_BRANCH", "CI_PIPELINE_SOURCE"}
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/ci.sh").write_text("exit 3\n")
    _sh(validators.script("deploy", project), tmp_path, {"PATH": "/usr/bin:/bin"})


def test_a_job_that_copies_the_image_may_read_it(projects: dict[str, Path], deploy: str) -> None:
    copies = "docker pull" in (projects[f"github-{deploy}"] / "deploy/ci.sh").read_text()
    job = yaml.safe_load((projects[f"github-{deploy}"] / GITHUB).read_text())["jobs"]["deploy"]
    logins = [each for each in job["steps"] if each.get("uses", "").startswith("docker/login-")]
    assert bool(logins) == copies
    assert (job.get("permissions", {}).get("packages") == "read") == copies
    script = validators.script("deploy", projects[f"gitlab-{deploy}"])
    assert ("docker login" in script.partition("deploy/ci.sh")[0]) == copies


def test_the_image_of_the_job_has_the_programs_of_the_script(
    projects: dict[str, Path], deploy: str
) -> None:
    """The image of Docker is Alpine, with hardly more than `docker`."""
    project = projects[f"gitlab-{deploy}"]
    job = yaml.safe_load((project / GITLAB).read_text())["deploy"]
    if "cloud-sdk" in job.get("image", ""):  # which has all of them
        return
    used = "".join(path.read_text() for path in (project / "deploy").glob("*.sh"))
    named = {"aws": "aws-cli", "curl": "curl", "git": "git", "kubectl": "kubectl"}
    named["ssh"] = "openssh-client"
    wanted = {
        package for name, package in named.items() if re.search(rf"(?m)(^|[ (]){name} ", used)
    }
    [install] = [line for line in job["script"] if line.startswith("apk add")]
    assert wanted <= {*install.split()}


@pytest.fixture(scope="module")
def repository(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two services, set up as docs/several-services.md says."""
    root = tmp_path_factory.mktemp("several")
    page = (generator.ROOT / "docs/several-services.md").read_text()
    [script] = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    for name in ("shop", "bank"):
        folder = root / "services" / name
        generator.render(template, folder, ci="github", deploy="ecs_fargate", project_name=name)
        _sh(script.replace("services/shop", f"services/{name}"), root, {"PATH": "/usr/bin:/bin"})
    return root


def test_two_services_have_pipelines_in_one_repository(repository: Path) -> None:
    for check in (validators.schema, validators.actionlint):
        assert check(repository) == ""
    seen: list[str] = []
    for path in sorted((repository / ".github/workflows").glob("*.yml")):
        text, workflow = path.read_text(), yaml.safe_load(path.read_text())
        service = repository / workflow["defaults"]["run"]["working-directory"]
        assert service.name == path.name.partition("-")[0]
        for local in re.findall(r"uses: \./(\S+)", text):
            assert (repository / local / "action.yml").is_file()
            assert (repository / local).is_relative_to(service)
        for script in re.findall(r"\bsh (\.ci/\S+|deploy/\S+)", text):
            assert (service / script).is_file()
        assert not re.search(r"context: \.$|path: (?:openapi.json|clients$)", text, re.MULTILINE)
        seen += {
            str(workflow["name"]),
            *re.findall(r"UPDATE_BRANCH: .*|image=.*|concurrency: .*", text),
        }
        seen += re.findall(r"environment: .*", text)
    assert len(seen) == len({*seen}) == 14


def _sh(script: str, folder: Path, environment: dict[str, str]) -> None:
    subprocess.run(
        ["sh", "-c", script], cwd=folder, env=environment, check=True, stdin=subprocess.DEVNULL
    )


def test_an_image_that_has_no_digest_is_not_published(
    projects: dict[str, Path], tmp_path: Path
) -> None:
    last = validators.script("publish", projects[f"gitlab-{DEPLOYS[0]}"]).splitlines()[-2:]
    (tmp_path / "built.json").write_text("{}\n")
    with pytest.raises(subprocess.CalledProcessError):
        _sh("\n".join(["set -e", *last]), tmp_path, {"PATH": "/usr/bin:/bin"})


def managers(project: Path) -> list[re.Pattern[str]]:
    """The patterns of Renovate's managers for images where it would not look for any."""
    given = json.loads((project / "renovate.json").read_text())["customManagers"]
    return [re.compile(manager["matchStrings"][0].replace("(?<", "(?P<")) for manager in given]


def test_renovate_finds_every_image_that_a_script_runs(projects: dict[str, Path]) -> None:
    """Its own managers find the others: those of jobs, services, compose and the Dockerfile."""
    project = projects[f"gitlab-{DEPLOYS[0]}"]
    found, _ = managers(project)
    scripts = "\n".join(validators.script(name, project) for name in validators.jobs(project))
    images = re.findall(r"(?<![\w$/.-])[a-z0-9.-]+/[a-z0-9.-]+:[a-z]?[0-9][^\s\"]*", scripts)
    assert images
    for image in images:
        for pinned in (image, f"{image}@{DIGEST}"):
            match = found.fullmatch(pinned)
            assert match, image
            assert f"{match['depName']}:{match['currentValue']}" == image


@pytest.mark.parametrize("tracing", [o.choice for o in options.load() if "sidecar" in o.provides])
def test_renovate_finds_the_image_of_a_stacks_collector(
    template: Path, tmp_path: Path, tracing: str
) -> None:
    answers = {"ci": "gitlab", "deploy": "ecs_fargate", "tracing": tracing}
    project = generator.render(template, tmp_path / "service", **answers)
    _, found = managers(project)
    stack = (project / "deploy/stack.yaml").read_text()
    (match,) = found.finditer(stack)
    image = f"{match['depName']}:{match['currentValue']}"
    assert f'CollectorImage: {{ Type: String, Default: "{image}"' in stack
    pinned = found.search(stack.replace(image, f"{image}@{DIGEST}"))
    assert pinned
    assert pinned["currentDigest"] == DIGEST


def test_a_release_is_not_ended_half_way(projects: dict[str, Path], deploy: str) -> None:
    """Each script takes back what fails; migrations alone may take an hour."""
    github, gitlab = (
        yaml.safe_load((projects[f"{ci}-{deploy}"] / file).read_text())
        for ci, file in (("github", GITHUB), ("gitlab", GITLAB))
    )
    assert github["jobs"]["deploy"]["timeout-minutes"] >= 120
    assert gitlab["deploy"]["timeout"] == "2 hours"
    assert not gitlab["deploy"]["interruptible"]
    # GitHub keeps one run of a group waiting, and cancels it for the next.
    assert "github.event_name" in github["concurrency"]["group"]


def test_trying_an_image_removes_no_volume_of_the_service(
    projects: dict[str, Path], tmp_path: Path
) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$COMPOSE_PROJECT_NAME $*" >>{tmp_path}/calls\n')
    docker.chmod(0o755)
    project = shutil.copytree(projects["gitlab-compose"], tmp_path / "service")
    for _ in range(2):
        _sh("sh .ci/try.sh", project, {"PATH": f"{tmp_path}:/usr/bin:/bin"})
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call for call in calls if "down --volumes" in call]
    names = {call.partition(" ")[0] for call in calls}
    assert len(names) == 2
    assert all(name.startswith("try-") for name in names)


def test_no_bot_proposes_a_major_version_of_postgres(projects: dict[str, Path]) -> None:
    """It would not start on the data of the one before, and nor would a rollback."""
    bot = yaml.safe_load((projects["github-compose"] / ".github/dependabot.yml").read_text())
    [compose] = [u for u in bot["updates"] if u["package-ecosystem"] == "docker-compose"]
    assert compose["ignore"] == [
        {"dependency-name": "postgres", "update-types": ["version-update:semver-major"]}
    ]
    rules = json.loads((projects["gitlab-compose"] / "renovate.json").read_text())["packageRules"]
    [rule] = [rule for rule in rules if rule.get("matchPackageNames") == ["postgres"]]
    assert (rule["matchUpdateTypes"], rule["enabled"]) == (["major"], False)
