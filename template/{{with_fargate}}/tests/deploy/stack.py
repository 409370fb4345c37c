"""Reads deploy/stack.yaml: CloudFormation's short forms, such as ``!Ref``, are kept as text."""

import re
from typing import Any

import yaml

from tests.conftest import ROOT

Resource = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """Reads ``!Ref Name`` as ``"!Ref Name"``, and other short forms as their arguments."""


def _short_form(loader: _Loader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return f"!{tag} {node.value}"
    return loader.construct_object(
        yaml.SequenceNode("tag:yaml.org,2002:seq", node.value)  # as a list, whatever it does
        if isinstance(node, yaml.SequenceNode)
        else node,
        deep=True,
    )


_Loader.add_multi_constructor("!", _short_form)

TEXT = (ROOT / "deploy/stack.yaml").read_text(encoding="utf-8")
STACK: dict[str, Any] = yaml.load(TEXT, _Loader)  # a SafeLoader
PARAMETERS: dict[str, Any] = STACK["Parameters"]


def resources(kind: str) -> dict[str, Resource]:
    """Return the properties of all resources of a kind, by name."""
    found = STACK["Resources"].items()
    return {name: each["Properties"] for name, each in found if each["Type"] == kind}


def containers() -> dict[str, Resource]:
    """Return the service's own container of every task, by name: a task's first one."""
    tasks = resources("AWS::ECS::TaskDefinition").values()
    own = [task["ContainerDefinitions"][0] for task in tasks]
    return {container["Name"]: container for container in own}


def environment(container: Resource) -> dict[str, str]:
    """Return the variables of a container, without its secrets."""
    return {each["Name"]: each["Value"] for each in container["Environment"]}


def of_gunicorn(name: str) -> int:
    """Return a number that gunicorn.conf.py sets."""
    text = (ROOT / "gunicorn.conf.py").read_text(encoding="utf-8")
    match = re.search(rf"^{name} = (\d+)", text, re.MULTILINE)
    assert match, name
    return int(match[1])


def beside_the_api() -> int:
    """Return how many connections others open at most: tasks, migrations, people and backups."""
    scaled = resources("AWS::ApplicationAutoScaling::ScalableTarget")
    opened = 1 + 5
    for name, service in resources("AWS::ECS::Service").items():
        variables = environment(containers()[name.lower()])
        if "MAX_REPLICAS" in variables:
            continue  # the API
        most = service["DesiredCount"]
        if f"{name}Scaling" in scaled:
            most = scaled[f"{name}Scaling"]["MaxCapacity"]
        tasks = PARAMETERS[most.removeprefix("!Ref ")]["Default"]
        during_a_release = service["DeploymentConfiguration"]["MaximumPercent"] / 100
        opened += int(tasks * during_a_release) * int(variables["DB_POOL_SIZE"])
    return opened
