"""Finds the option folders of the template and tells Copier what was chosen.

An option is a folder ``template/{{<question>_<choice>}}`` with an ``option.yml``. Its name is a
variable that renders to ``.`` when the option is chosen, so that Copier lays the folder over the
project, and to nothing otherwise, so that Copier skips it. ``{{with_<fact>}}`` holds what several
options share: it is laid in when a chosen option ``provides`` the fact, or when the yes/no
question of that name was answered with yes.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, cast

import yaml
from copier_template_extensions import ContextHook
from jinja2.ext import Extension
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

TEMPLATE = Path(__file__).parent.parent / "template"
FOLDER = re.compile(r"\{\{(?P<question>[a-z]+)_(?P<choice>[a-z0-9_]+)\}\}")
FACT = "with"

Line = Annotated[str, StringConstraints(pattern=r"^[^\n]+$")]
Module = Annotated[str, StringConstraints(pattern=r"^app(\.[a-z_]+)+$")]
Requirement = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+(\[[a-z0-9,_-]+\])?>=\S+$")]


class OptionError(Exception):
    """An option folder that can't be used; the message says which, and what would be right."""


class Variable(BaseModel):
    """One environment variable, as ``.env.example`` shows it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]
    value: str = ""
    comment: Line


class Option(BaseModel):
    """Everything that the shared files need to know of one option: its ``option.yml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str
    choice: str
    label: Line
    help: Line
    order: int = 50
    provides: frozenset[str] = frozenset()
    dependencies: tuple[Requirement, ...] = ()
    dev_dependencies: tuple[Requirement, ...] = ()
    parts: tuple[Module, ...] = ()
    routers: tuple[Module, ...] = ()
    companions: dict[str, Line] = Field(default_factory=dict)
    env: tuple[Variable, ...] = ()
    compose: dict[str, Any] = Field(default_factory=dict)
    compose_environment: dict[str, str] = Field(default_factory=dict)
    compose_volumes: tuple[str, ...] = ()
    mypy_untyped: tuple[str, ...] = ()
    readme: str = ""

    @property
    def variable(self) -> str:
        """The name that the folder's name is made of."""
        return f"{self.question}_{self.choice}"


@cache
def load(template: Path = TEMPLATE) -> tuple[Option, ...]:
    """Read every option folder below ``template``, in the order in which the prompts list them.

    Raises ``OptionError`` for a folder whose name or manifest can't be used.
    """
    folders = sorted(path for path in template.glob("{{*}}") if path.is_dir())
    return tuple(sorted(map(_read, folders), key=lambda o: (o.question, o.order, o.choice)))


def _read(folder: Path) -> Option:
    if not (match := FOLDER.fullmatch(folder.name)):
        raise OptionError(
            f"{folder.name}: not an option folder's name; it would be {{{{question_choice}}}}."
        )
    manifest = folder / "option.yml"
    if not manifest.is_file():
        raise OptionError(f"{folder.name}: has no option.yml; it needs at least label and help.")
    try:
        facts = yaml.safe_load(manifest.read_text(encoding="utf-8")) or {}
        return Option(**{**facts, **match.groupdict()})
    except yaml.YAMLError as error:
        raise OptionError(f"{folder.name}/option.yml is not valid YAML: {error}") from None
    except (ValidationError, TypeError) as error:
        raise OptionError(f"{folder.name}/option.yml: {_explain(error)}") from None


def _explain(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):
        return "is not a mapping; it would be `key: value` lines."
    return "; ".join(
        f"`{'.'.join(map(str, e['loc']))}`: {e['msg'].lower()} (here: {e['input']!r})"
        for e in error.errors()
    )


def choose(options: tuple[Option, ...], answers: dict[str, Any]) -> list[Option]:
    """Return the options that ``answers`` choose, the facts that they provide among them."""

    def chosen(option: Option) -> bool:
        answer = answers.get(option.question)
        return option.choice in answer if isinstance(answer, list) else option.choice == answer

    picked = [option for option in options if chosen(option)]
    facts = {fact for option in picked for fact in option.provides}
    facts |= {name for name, answer in answers.items() if answer is True}
    shared = [o for o in options if o.question == FACT and o.choice in facts]
    return sorted(shared + picked, key=lambda o: (o.order, o.variable))


def gather(chosen: list[Option], field: str) -> list[Any]:
    """Collect one list field of the chosen options, each value once, sorted."""
    return sorted({value for option in chosen for value in getattr(option, field)})


def merge(chosen: list[Option], field: str) -> dict[str, Any]:
    """Collect one mapping field of the chosen options."""
    return {key: value for option in chosen for key, value in getattr(option, field).items()}


class Options(ContextHook):
    """Adds to every render: the folder variables, ``options``, and the choices of each question."""

    def hook(self, context: dict[str, Any]) -> None:
        available = load()
        chosen = choose(available, context)
        variables = {option.variable for option in chosen}
        context.update({o.variable: "." if o.variable in variables else "" for o in available})
        context.update(
            options=chosen,
            choices=_choices(available),
            gather=lambda field: gather(chosen, field),
            merge=lambda field: merge(chosen, field),
            has=lambda fact: any(fact in option.provides for option in chosen),
            part_imports=[f"import {module}" for module in gather(chosen, "parts")],
            part_names=[f"{module}," for module in gather(chosen, "parts")],
            router_imports=[
                f"from {module}.router import router as {_short(module)}"
                for module in gather(chosen, "routers")
            ],
            router_names=[f"{_short(module)}," for module in gather(chosen, "routers")],
        )


def _short(module: str) -> str:
    return module.rpartition(".")[2]


def _choices(options: tuple[Option, ...]) -> dict[str, str]:
    questions = {option.question for option in options} - {FACT}
    return {
        question: json.dumps(
            {f"{o.label}: {o.help}": o.choice for o in options if o.question == question}
        )
        for question in questions
    }


class PythonSlots(Extension):
    """Lets a Python file of the template hold a list in a comment of its own: ``# {{ names }}``.

    Each item becomes a line, as far indented as the comment; an empty list leaves nothing. So every
    Python file of the template parses, lints and formats as it stands.
    """

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        environment.filters["indented"] = lambda lines, by: "".join(f"{by}{x}\n" for x in lines)

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        if not (name or "").endswith(".py.jinja"):
            return source
        return re.sub(
            r"^( *)# \{\{ (\w+) \}\}\n",
            r"{{ \2 | indented('\1') }}",
            source,
            flags=re.MULTILINE,
        )


def quoted(text: str) -> str:
    """Return ``text`` as a double-quoted string that TOML, YAML, JSON and Python all read alike."""
    return cast(str, json.dumps(text, ensure_ascii=False))


class Filters(Extension):
    """Adds the filter ``quoted``."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        environment.filters["quoted"] = quoted
