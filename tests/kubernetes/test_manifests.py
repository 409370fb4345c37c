"""What Kustomize makes of a service's manifests is valid, safe, and refers to what is there."""

import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import generator, matrix
from tests.kubernetes import tools
from tests.kubernetes.conftest import IMAGE, ROWS, Json, objects

COMPONENT = "app.kubernetes.io/component"
NO_SCHEMA = re.compile(r"WARN .* Couldn't find schema for kind (\w+) with api version (\S+)/")
# Namespaced kinds that a selector or a reference can name.
WORKLOADS = {"Deployment", "Job"}


@pytest.fixture(scope="session")
def builds(built: Path) -> dict[str, list[Json]]:
    return {path.stem: objects(path.read_text()) for path in sorted(built.glob("*.yaml"))}


@pytest.fixture(scope="session")
def overlays(builds: dict[str, list[Json]]) -> dict[str, list[Json]]:
    return {name: each for name, each in builds.items() if "-overlays-" in name}


def test_every_choice_is_among_what_is_built() -> None:
    for question, choices in matrix.choices().items():
        if question in {"queue", "tracing", "auth"}:
            assert {row[question] for row in ROWS.values()} == set(choices)


def test_kubernetes_own_kinds_match_their_schemas(built: Path) -> None:
    said = tools.run("kubernetes-validate", "--strict", *sorted(built.glob("*.yaml")))
    unknown = {match[2].split("/")[0] for match in NO_SCHEMA.finditer(said)}
    assert unknown <= set(tools.PACKAGES)
    assert [line for line in said.splitlines() if not NO_SCHEMA.match(line)] == []


def test_other_kinds_match_their_types(builds: dict[str, list[Json]], tmp_path: Path) -> None:
    custom = {
        yaml.safe_dump(each): each
        for each in chain.from_iterable(builds.values())
        if each["apiVersion"].split("/")[0] in tools.PACKAGES
    }
    assert {each["kind"] for each in custom.values()} >= {
        *("Rollout", "AnalysisTemplate", "HTTPRoute", "ScaledObject"),
        *("ServiceMonitor", "PodMonitor", "ExternalSecret"),
    }
    assert tools.mistyped(list(custom.values()), tmp_path) == ""


def test_going_back_skips_the_canary(builds: dict[str, list[Json]]) -> None:
    """Argo skips it for a version that is within the window, and whose pods it still knows."""
    rollouts = [o for each in builds.values() for o in each if o["kind"] == "Rollout"]
    for spec in (rollout["spec"] for rollout in rollouts):
        assert 0 < spec["rollbackWindow"]["revisions"] < spec["revisionHistoryLimit"]
    assert rollouts


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Rollout", lambda spec: spec["strategy"]["canary"].update(maxSurg=1)),
        ("AnalysisTemplate", lambda spec: spec["metrics"][0].update(failurLimit=1)),
        ("HTTPRoute", lambda spec: spec["rules"][0]["backendRefs"][0].update(port=0)),
        ("ScaledObject", lambda spec: spec["triggers"][0].pop("type")),
    ],
)
def test_what_matches_no_type_is_found(
    builds: dict[str, list[Json]], tmp_path: Path, kind: str, change: Callable[[Json], object]
) -> None:
    all_ = chain.from_iterable(builds.values())
    broken: Any = yaml.safe_load(yaml.safe_dump(next(o for o in all_ if o["kind"] == kind)))
    change(broken["spec"])
    assert tools.mistyped([broken], tmp_path) != ""


def test_checkov_finds_nothing(built: Path) -> None:
    framework = ["--framework", "kubernetes", "--skip-download", "--compact", "--quiet"]
    assert tools.run("checkov", "--directory", built, *framework) == ""


def test_every_exception_of_checkov_has_its_reason(builds: dict[str, list[Json]]) -> None:
    for each in chain.from_iterable(builds.values()):
        for name, value in each["metadata"].get("annotations", {}).items():
            if name.startswith("checkov.io/"):
                assert len(value.partition("=")[2]) > 20, value


def test_yamllint_finds_nothing(services: dict[str, Path]) -> None:
    rules = (
        "{extends: default, rules: {line-length: {max: 110}, document-start: disable,"
        " braces: {max-spaces-inside: 1}, comments: {min-spaces-from-content: 1},"
        " octal-values: {forbid-implicit-octal: false}}}"
    )
    folders = [service / "deploy" for service in services.values()]
    assert tools.run("yamllint", "--strict", "--config-data", rules, *folders) == ""


def test_shellcheck_finds_nothing(services: dict[str, Path]) -> None:
    scripts = next(iter(services.values())).glob("deploy/*.sh")
    assert tools.run("shellcheck", *sorted(scripts)) == ""


def test_hadolint_finds_nothing(services: dict[str, Path]) -> None:
    assert tools.run("hadolint", next(iter(services.values())) / "Dockerfile") == ""


def test_every_pod_runs_the_image_by_its_digest(overlays: dict[str, list[Json]]) -> None:
    for name, found in overlays.items():
        images = {container["image"] for pod in _pods(found) for container in pod["containers"]}
        assert images == {IMAGE}, name


def test_every_pod_is_as_small_a_target_as_the_others(overlays: dict[str, list[Json]]) -> None:
    for pod in chain.from_iterable(map(_pods, overlays.values())):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        [container] = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert "env" not in container, "settings come from settings.env, secrets from files"


def _pods(found: list[Json]) -> Iterator[Json]:
    for each in found:
        if each["kind"] in WORKLOADS:
            yield each["spec"]["template"]["spec"]


def test_references_lead_somewhere(overlays: dict[str, list[Json]]) -> None:
    for name, found in overlays.items():
        there = {(each["kind"], each["metadata"]["name"]) for each in found}
        there.add(("Secret", "service"))  # made by a person, or by the operator
        for each in found:
            missing = set(_references(each)) - there
            assert not missing, f"{name}: {each['kind']} {each['metadata']['name']}"


def _references(each: Json) -> Iterator[tuple[str, str]]:
    spec = each.get("spec", {})
    for key in ("scaleTargetRef", "workloadRef"):
        if key in spec:
            yield spec[key].get("kind", "Deployment"), spec[key]["name"]
    if each["kind"] == "HTTPRoute":
        yield from (("Service", b["name"]) for rule in spec["rules"] for b in rule["backendRefs"])
    if each["kind"] == "Rollout":
        for step in spec["strategy"]["canary"]["steps"]:
            for used in step.get("analysis", {}).get("templates", []):
                yield "AnalysisTemplate", used["templateName"]
    if each["kind"] in WORKLOADS:
        pod = spec["template"]["spec"]
        yield "ServiceAccount", pod["serviceAccountName"]
        yield "ConfigMap", pod["containers"][0]["envFrom"][0]["configMapRef"]["name"]
        yield from (("Secret", v["secret"]["secretName"]) for v in pod["volumes"] if "secret" in v)


def test_selectors_find_pods_and_ports(overlays: dict[str, list[Json]]) -> None:
    for name, found in overlays.items():
        pods = [each["spec"]["template"] for each in found if each["kind"] in WORKLOADS]
        for each in found:
            for labels, ports in _selections(each):
                chosen = [p for p in pods if labels.items() <= p["metadata"]["labels"].items()]
                named = {
                    port["name"]
                    for pod in chosen
                    for port in pod["spec"]["containers"][0].get("ports", [])
                }
                assert chosen, f"{name}: {each['kind']} {each['metadata']['name']} selects no pod"
                assert ports <= named, f"{name}: {each['kind']} {each['metadata']['name']}"


def _selections(each: Json) -> Iterator[tuple[dict[str, str], set[str]]]:
    """Yield the labels by which an object chooses pods, and the ports that it wants of them."""
    spec, kind = each.get("spec", {}), each["kind"]
    if kind == "Service":
        yield spec["selector"], {port["targetPort"] for port in spec["ports"]}
    elif kind == "PodMonitor":
        ports = {endpoint["port"] for endpoint in spec["podMetricsEndpoints"]}
        yield spec["selector"]["matchLabels"], ports
    elif kind == "NetworkPolicy":
        rules = [*spec.get("ingress", [])]
        ports = {port["port"] for rule in rules for port in rule.get("ports", [])}
        yield spec["podSelector"].get("matchLabels", {}), ports
    elif kind in {"PodDisruptionBudget", "Deployment"}:
        yield spec["selector"]["matchLabels"], set()


def test_every_process_has_a_disruption_budget_and_a_way_to_be_scaled(
    overlays: dict[str, list[Json]],
) -> None:
    for name, found in overlays.items():
        processes = _named(found, "Deployment")
        assert _named(found, "PodDisruptionBudget") == processes, name
        if "-production" in name:
            scaled = _named(found, "HorizontalPodAutoscaler") | _named(found, "ScaledObject")
            fixed = {
                each["metadata"]["name"]
                for each in found
                if each["kind"] == "Deployment" and each["spec"].get("replicas", 1) > 1
            }
            assert scaled | fixed == processes, "one pod alone would not survive its node"
            assert not scaled & fixed, "a release would undo what scaled it"


def _named(found: list[Json], kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in found if each["kind"] == kind}


def test_the_account_that_releases_may_do_what_a_release_does(
    builds: dict[str, list[Json]],
) -> None:
    for name, found in builds.items():
        if "-overlays-" not in name:
            continue
        row, _, overlay = name.partition("-overlays-")
        setup = builds[f"{row}-setup-{overlay.split('-')[0]}"]
        [role] = [each for each in setup if each["kind"] == "Role"]
        [binding] = [each for each in setup if each["kind"] == "RoleBinding"]
        assert binding["subjects"][0]["namespace"] == role["metadata"]["namespace"]
        allowed = {
            (group, resource): set(rule["verbs"])
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }
        for each in found:
            group = each["apiVersion"].rpartition("/")[0]
            plural = each["kind"].lower().replace("policy", "policie") + "s"
            assert {"get", "create", "patch"} <= allowed[group, plural], each["kind"]
            assert each["metadata"]["namespace"] == role["metadata"]["namespace"]
        assert ("", "secrets") not in allowed


def test_pods_call_other_services_over_https_only_with_the_component(
    builds: dict[str, list[Json]],
) -> None:
    name = "production-external-secrets-outgoing-https"
    for file, found in builds.items():
        open_to = [
            rule["to"]
            for each in found
            if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == "to-https"
            for rule in each["spec"]["egress"]
            if {"port": 443, "protocol": "TCP"} in rule["ports"]
        ]
        block = {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}
        assert open_to == ([[{"ipBlock": block}]] if file.endswith(name) else []), file


def test_what_an_option_calls_and_keeps_secret_is_in_the_manifests(tmp_path: Path) -> None:
    root = generator.copy_of_template(tmp_path / "extended")
    generator.manifest(
        root / "template" / "{{feature_toy}}",
        egress={8443: "the toy shop"},
        env=[{"name": "TOY_KEY", "comment": "Opens the shop", "secret": True}],
        processes={"toy-maker": "makes the toys"},
    )
    service = generator.render(
        root, tmp_path / "service", deploy="kubernetes", features=["toy"], preset="minimal"
    )
    found = objects(tools.kustomize(service / "deploy/kubernetes/overlays/production"))
    called = [
        (port["port"], each["metadata"]["name"])
        for each in found
        if each["kind"] == "NetworkPolicy"
        for rule in each["spec"].get("egress", [])
        for port in rule["ports"]
    ]
    assert (8443, "to-others") in called
    assert "toy-maker" in _named(found, "Deployment")
    settings = (service / "deploy/kubernetes/base/settings.env").read_text()
    assert "#TOY_KEY_FILE=/run/secrets/service/TOY_KEY\n" in settings
