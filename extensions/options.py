"""The options: their folders, their validation, and which of them the answers choose.

An option is a folder ``template/{{<question>_<choice>}}`` with an ``option.yml``. Its name is a
variable that renders to ``.`` if the option is chosen, so that Copier lays the folder over the
project, and to nothing otherwise, so that Copier skips it. ``{{with_<fact>}}`` holds what several
options share: it is included if a chosen option ``provides`` the fact, or if the yes/no question
of that name was answered with yes. Within an option's folder, ``{{with_<fact>}}`` holds what the
option adds to services that have the fact, and ``{{with_<fact>}}/{{with_<other>}}`` what it adds to
those that have both; its ``option.yml`` may be missing.
"""

import ast
import json
import os
import re
import sys
from collections import defaultdict
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from copier.errors import UserMessageError
from copier_template_extensions import ContextHook
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

TEMPLATE = Path(__file__).parent.parent / "template"
FOLDER = re.compile(r"\{\{(?P<question>[a-z]+)_(?P<choice>[a-z0-9_]+)\}\}")
NAMED = re.compile(r"\{\{(?P<variable>[a-z0-9_]+)\}\}")
FACT = "with"
# libyaml's, where PyYAML was built with it: the one in Python takes ten times as long.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SEVERAL = {"feature": "features"}  # questions with several answers: the folder's word, the question

Answers = dict[str, Any]
Preset = Literal["minimal", "standard", "everything"]


class OptionError(UserMessageError):
    """An invalid option folder; the message names it and says what is valid."""


def _written(pattern: str, example: str) -> AfterValidator:
    """Accept text that matches ``pattern``; the error shows an ``example``."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text!r} is not valid; write it like `{example}`")
        return text

    return AfterValidator(check)


Line = Annotated[str, _written(r"[^\n]*\S[^\n]*", "one line of text")]
Module = Annotated[str, _written(r"app(\.[a-z_][a-z0-9_]*)+", "app.items")]
Class = Annotated[
    str,
    _written(
        r"app(\.[a-z_][a-z0-9_]*)+\.[A-Z][A-Za-z0-9]*", "app.platform.settings.cache.CacheSettings"
    ),
]
Untyped = Annotated[str, _written(r"[a-z_][a-z0-9_]*(\.\*)?", "celery.*")]
Package = Annotated[str, _written(r"[a-z_][a-z0-9_]*", "celery")]
EnvName = Annotated[str, _written(r"[A-Z][A-Z0-9_]*", "OTEL_SERVICE_NAME")]
FileName = Annotated[str, _written(r"[a-z][a-z0-9_]*", "vendor_api_key")]
Slug = Annotated[str, _written(r"[a-z][a-z0-9_-]*", "worker")]
Requirement = Annotated[
    str,
    _written(
        r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[a-z0-9,_-]+\])?>=[0-9][^\s,;]*(,(<|!=)[^\s,;]+)*( ; .+)?",
        "celery[redis]>=5.7",
    ),
]


class Variable(BaseModel):
    """An environment variable of ``.env.example``.

    With an ``example``, production can't start without it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: EnvName
    value: str = ""
    comment: Line
    example: str = ""
    secret: bool = False  # stored with the deploy target's secrets, and passed as <NAME>_FILE


class Token(BaseModel):
    """An identity token (OIDC) that CI presents to the deploy target instead of a key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    audience: Line  # who the token is for, such as sts.amazonaws.com
    variable: EnvName  # it names the file with the token


class Option(BaseModel):
    """The manifest of one option, ``option.yml``: what the shared files need to know of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str
    choice: str
    outer: str = ""  # of a folder in an option's folder: the variables of the folders around it
    label: Line
    help: Annotated[Line, Field(max_length=85)]  # a line of the prompt, with the label
    order: int = 50
    presets: frozenset[Preset] = frozenset()
    provides: frozenset[Slug] = frozenset()
    was: frozenset[Slug] = frozenset()  # choices of earlier versions that are this one now
    dependencies: tuple[Requirement, ...] = ()
    dev_dependencies: tuple[Requirement, ...] = ()
    components: tuple[Module, ...] = ()
    routers: tuple[Module, ...] = ()
    settings: tuple[Class, ...] = ()  # base classes of PlatformSettings
    servers: tuple[Module, ...] = ()  # run beside Postgres and Redis in development; each a SERVER
    processes: dict[Slug, Line] = Field(default_factory=dict)
    env: tuple[Variable, ...] = ()
    compose: dict[Slug, Any] = Field(default_factory=dict)
    compose_environment: dict[EnvName, str] = Field(default_factory=dict)
    compose_volumes: tuple[Slug, ...] = ()
    egress: dict[int, Line] = Field(default_factory=dict)  # TCP ports that it calls: whose they are
    compose_secrets: tuple[FileName, ...] = ()  # of what runs beside the service, as files
    deploy_secrets: dict[EnvName, Line] = Field(default_factory=dict)  # what deploy/ci.sh is told
    deploy_token: Token | None = None
    deploy_image: Line | None = None  # where deploy/ci.sh runs, when its programs are no packages
    deploy_packages: tuple[Slug, ...] = ()  # of Alpine: programs that deploy/ci.sh runs
    mypy_untyped: tuple[Untyped, ...] = ()
    # Of the dashboards of that name; extensions/dashboards.py describes a panel.
    panels: dict[Literal["overview", "on-call", "debug"], list[dict[str, Any]]] = Field(
        default_factory=dict
    )
    clients: tuple[Package, ...] = ()  # that the platform alone may import: the queue's
    readme: str = ""
    platform: str = ""  # a section of docs/platform.md: what a feature imports of it
    checklist: tuple[Line, ...] = ()  # rows of docs/production.md: "what | what holds it"
    runbooks: tuple[Line, ...] = ()  # rows of docs/runbooks/README.md: "alert | severity | means"
    audit_events: tuple[Line, ...] = ()  # rows of docs/audit-log.md: "action | what happened"
    timeouts: tuple[Line, ...] = ()  # rows of docs/timeouts.md: "what | where | seconds | result"
    # Of docs/capacity.md: rows of its table, or where the time goes.
    capacity: tuple[Line, ...] = ()
    game_day: tuple[Line, ...] = ()  # rows of docs/game-day.md, as `make game-day` prints them

    @property
    def variable(self) -> str:
        """The variable in the folder's name."""
        return f"{self.question}_{self.choice}"

    @property
    def name(self) -> str:
        """The variables in the path of its folder, which no other option has."""
        return f"{self.outer}/{self.variable}" if self.outer else self.variable

    @property
    def folder(self) -> str:
        """The path of its folder below ``template/``."""
        return "/".join(f"{{{{{part}}}}}" for part in self.name.split("/"))

    @property
    def required_variables(self) -> list[str]:
        """Variables that production requires, as items of a Python ``dict``."""
        return [f"{json.dumps(v.name)}: {json.dumps(v.example)}," for v in self.env if v.example]


@cache
def load(template: Path = TEMPLATE) -> tuple[Option, ...]:
    """The options below ``template``, in the order of the prompts.

    Raises ``OptionError`` for an invalid name or manifest, and for two options that write the same
    file of one project.
    """
    folders = sorted(path for path in template.glob("{{*}}") if path.is_dir())
    read = [_read(folder) for folder in folders]
    read += [
        _read_inner(path, outermost, template)
        for outermost in read
        for path in sorted((template / outermost.folder).rglob("{{*}}"))
    ]
    options = tuple(sorted(read, key=lambda o: (o.question, o.order, o.choice, o.outer)))
    _refuse_lonely_facts(options)
    _refuse_two_owners(template, options)
    _refuse_two_defaults(options)
    return options


def _read(folder: Path) -> Option:
    """The option of a folder directly below ``template/``."""
    if not (match := FOLDER.fullmatch(folder.name)):
        raise OptionError(
            f"{folder.name}: not the name of an option folder; name it {{{{question_choice}}}}, "
            "in lower case."
        )
    manifest = folder / "option.yml"
    if not manifest.is_file():
        raise OptionError(f"{folder.name}: has no option.yml; it needs at least label and help.")
    return _parse(manifest, folder.name, match.groupdict())


def _read_inner(folder: Path, outermost: Option, template: Path) -> Option:
    """What an option adds to services with one or more facts, from a folder in its own."""
    *around, own = folder.relative_to(template).parts
    outer = [match["variable"] for match in map(NAMED.fullmatch, around) if match]
    name = "/".join([*(f"{{{{{variable}}}}}" for variable in outer), own])
    match = FOLDER.fullmatch(own)
    if not (match and match["question"] == FACT and len(outer) == len(around)):
        raise OptionError(
            f"{name}: within an option, only {{{{with_fact}}}} can be a folder's name."
        )
    fixed: dict[str, Any] = {**match.groupdict(), "outer": "/".join(outer)}
    fixed |= {"label": outermost.label, "help": outermost.help, "order": outermost.order}
    fixed |= {"presets": (), "provides": (), "was": ()}
    manifest = folder / "option.yml"
    return _parse(manifest, name, fixed) if manifest.is_file() else Option(**fixed)


def _parse(manifest: Path, name: str, fixed: dict[str, Any]) -> Option:
    """The option of a manifest; ``name`` is its folder, which defines what is ``fixed``."""
    try:
        facts = yaml.load(manifest.read_text(encoding="utf-8"), Loader=LOADER)  # noqa: S506
        if named := {"question", "choice", "outer", *fixed} & set(facts):
            raise OptionError(
                f"{name}/option.yml: `{min(named)}`: unknown key; the folder's name defines it."
            )
        return Option(**{**facts, **fixed})
    except yaml.YAMLError as error:
        raise OptionError(f"{name}/option.yml is not valid YAML: {error}") from None
    except ValidationError as error:
        raise OptionError(f"{name}/option.yml: {_explain(error)}") from None
    except TypeError:
        raise OptionError(f"{name}/option.yml: write it as `key: value` lines.") from None


def _explain(error: ValidationError) -> str:
    """One clause for each invalid key."""
    known = ", ".join(sorted(set(Option.model_fields) - {"question", "choice", "outer"}))
    return "; ".join(
        f"`{'.'.join(map(str, e['loc']))}`: "
        + (
            f"unknown key; the keys are {known}"
            if e["type"] == "extra_forbidden" and len(e["loc"]) == 1
            else e["msg"].removeprefix("Value error, ")
        )
        for e in error.errors()
    )


def _refuse_two_owners(template: Path, options: tuple[Option, ...]) -> None:
    core = frozenset(
        path
        for entry in template.iterdir()
        if not FOLDER.fullmatch(entry.name)
        for path in destinations(entry, template)
    )
    owned = {option.name: destinations(template / option.folder) for option in options}
    for option in options:
        if shared := owned[option.name] & core:
            raise OptionError(f"{option.name}: {min(shared)} belongs to the core.")
    for one, other in combinations(options, 2):
        if (shared := owned[one.name] & owned[other.name]) and _together(one, other, options):
            raise OptionError(
                f"{one.name} and {other.name} both own {min(shared)}; since one project "
                "can have both, give each its own path."
            )


def destinations(entry: Path, root: Path | None = None) -> frozenset[str]:
    """The paths that ``entry``, a file or a folder, writes in a project.

    Of an option's folder, without those of the folders in it that are options themselves.
    """
    files = [entry] if entry.is_file() else [path for path in entry.rglob("*") if path.is_file()]
    inner = [path for path in entry.glob("{{*}}") if FOLDER.fullmatch(path.name)]
    return frozenset(
        path.relative_to(root or entry).as_posix().removesuffix(".jinja")
        for path in files
        if path != entry / "option.yml"
        and "__pycache__" not in path.parts
        and not any(map(path.is_relative_to, inner))
    )


def written(chosen: list[Option], template: Path = TEMPLATE) -> frozenset[str]:
    """The paths of a project with these options, apart from the answers file."""
    core = [path for path in template.iterdir() if "{{" not in path.name]
    parts = [destinations(path, template) for path in core]
    parts += [destinations(template / option.folder) for option in chosen]
    return frozenset().union(*parts)


def _together(one: Option, other: Option, options: tuple[Option, ...]) -> bool:
    """Whether some answers choose both."""
    return any(
        a == b or a.question != b.question or a.question in (*SEVERAL, FACT)
        for a in _choosing(one, options)
        for b in _choosing(other, options)
    )


def _choosing(option: Option, options: tuple[Option, ...]) -> list[Option]:
    """The options whose choice includes ``option``: itself, or those that provide it."""
    if option.outer:
        outermost = option.outer.partition("/")[0]
        option = next(o for o in options if o.name == outermost)
    providers = [o for o in options if option.choice in o.provides]
    return providers if option.question == FACT and providers else [option]


def _refuse_lonely_facts(options: tuple[Option, ...]) -> None:
    facts = {option.choice for option in options if option.question == FACT and not option.outer}
    for option in options:
        if option.outer and option.choice not in facts:
            raise OptionError(
                f"{option.name}: no folder {{{{{option.variable}}}}} defines the fact; use one of "
                f"{', '.join(sorted(facts))}."
            )


def _refuse_two_defaults(options: tuple[Option, ...]) -> None:
    for one, other in combinations(options, 2):
        shared = one.presets & other.presets
        if shared and one.question == other.question and one.question not in (*SEVERAL, FACT):
            raise OptionError(
                f"{one.variable} and {other.variable} are both the default of the preset "
                f"{min(shared)}; one question has one default."
            )


def defaults(options: tuple[Option, ...], preset: str) -> Answers:
    """The default answers of a preset.

    A question's default is the option that lists the preset, or its first option; questions with
    several answers (and yes/no) default to the options that list it.
    """
    answers: Answers = defaultdict(str)
    outermost = (option for option in options if not option.outer)
    for option in sorted(outermost, key=lambda o: o.question == FACT):
        listed = preset in option.presets
        if option.question in SEVERAL:
            answers.setdefault(SEVERAL[option.question], [])
            answers[SEVERAL[option.question]] += [option.choice] * listed
        elif option.question == FACT:
            answers.setdefault(option.choice, listed)
        elif listed or option.question not in answers:
            answers[option.question] = option.choice
    return answers


def choose(options: tuple[Option, ...], answers: Answers) -> list[Option]:
    """The options that ``answers`` choose, with the facts that these provide."""

    def chosen(option: Option) -> bool:
        answer = answers.get(SEVERAL.get(option.question, option.question))
        return option.choice in answer if isinstance(answer, list) else option.choice == answer

    picked = [option for option in options if option.question != FACT and chosen(option)]
    facts = {fact for option in picked for fact in option.provides}
    facts |= {name for name, answer in answers.items() if answer is True}
    shared = [o for o in options if o.question == FACT and o.choice in facts]
    there = {"", *(option.variable for option in [*picked, *shared] if not option.outer)}
    both = [o for o in [*picked, *shared] if there.issuperset(o.outer.split("/"))]
    return sorted(both, key=lambda o: (o.order, o.name))


def gather(chosen: list[Option], field: str) -> list[Any]:
    """The values of one list field of the chosen options, each once, sorted."""
    return sorted({value for option in chosen for value in getattr(option, field)})


def merge(chosen: list[Option], field: str) -> dict[str, Any]:
    """One mapping field of the chosen options, merged."""
    return {key: value for option in chosen for key, value in getattr(option, field).items()}


class Options(ContextHook):
    """Adds the folder variables, ``options`` and the choices of each question to every render."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        # Copier renders each part of each path, and calls the hook each time.
        self._of: dict[str, Answers] = {}
        self._available = load()
        questions = {SEVERAL.get(o.question, o.question) for o in self._available}
        facts = {o.choice for o in self._available if o.question == FACT}
        self._names = sorted({"preset", *questions, *facts})
        self._began = False

    def hook(self, context: Answers) -> None:
        given = {name: context.get(name) for name in self._names}
        key = json.dumps(given, default=str)
        if key not in self._of:
            self._of[key] = _facts(self._available, given)
        context.update(self._of[key])
        if context["_copier_phase"] == "render" and not self._began:
            self._began = True
            _refuse_half_a_copy(context["_copier_conf"], context["options"])


def _refuse_half_a_copy(configuration: Any, chosen: list[Option]) -> None:
    """Raise ``UserMessageError`` if something in the way would end the copy in the middle.

    A folder where the service has a file, a file where it has a folder, or a link to a folder
    elsewhere ends a copy and an update. So does any other file if nobody can be asked: Copier asks
    before it replaces one.
    """
    if configuration["pretend"]:
        return
    folder, paths = Path(configuration["dst_path"]), written(chosen)
    folders = {parent for path in paths for parent in map(str, Path(path).parents)}
    stuck = {path for path in paths if (folder / path).is_dir()}
    stuck |= {p for p in folders if os.path.lexists(folder / p) and not (folder / p).is_dir()}
    real = folder.resolve()
    stuck |= {p for p in folders if not (folder / p).resolve().is_relative_to(real)}
    outermost = sorted(p for p in stuck if stuck.isdisjoint(map(str, Path(p).parents)))
    if outermost:
        raise UserMessageError(
            f"Nothing was written: {', '.join(outermost)} in {folder} is a file where the "
            "service has a folder, a folder where it has a file, or a link to a folder outside of "
            "the service. Move it elsewhere."
        )
    if configuration["overwrite"] or sys.stdin.isatty():
        return
    there = sorted(path for path in paths if os.path.lexists(folder / path))
    if there:
        more = f" and {len(there) - 3} more files" if there[3:] else ""
        raise UserMessageError(
            f"Nothing was written: {folder} has {', '.join(there[:3])}{more} already. Choose an "
            "empty folder, add --overwrite to replace them, or run this in a terminal, where each "
            "file is asked about."
        )


def _facts(available: tuple[Option, ...], given: Answers) -> Answers:
    """The variables of the templates for these answers."""
    chosen = choose(available, given)
    variables = {option.variable for option in chosen}
    return {o.variable: "." if o.variable in variables else "" for o in available} | {
        "options": chosen,
        "available": available,
        "choices": choices(available),
        "default": defaults(available, given["preset"] or "standard"),
        "gather": lambda field: gather(chosen, field),
        "merge": lambda field: merge(chosen, field),
        "panels": lambda name: [panel for o in chosen for panel in o.panels.get(name, ())],
        "secrets": [each.name for option in chosen for each in option.env if each.secret],
        "deploy_token": next((o.deploy_token for o in chosen if o.deploy_token), None),
        "deploy_image": next((o.deploy_image for o in chosen if o.deploy_image), None),
        "has": lambda fact: any(fact in option.provides for option in chosen),
        "component_imports": [_import(module) for module in gather(chosen, "components")],
        "component_names": [f"{_leaf(module)}," for module in gather(chosen, "components")],
        "router_imports": [_import_router(module) for module in gather(chosen, "routers")],
        "router_names": [f"{_mounted(module)}," for module in gather(chosen, "routers")],
        "settings_imports": [_import(name) for name in gather(chosen, "settings")],
        "settings_names": [f"{_leaf(name)}," for name in gather(chosen, "settings")],
        "required_variables": gather(chosen, "required_variables"),
        "server_imports": [_import(module) for module in gather(chosen, "servers")],
        "packages": lambda: packages(chosen),
        "parts": lambda path: parts(chosen, path),
        "texts": lambda folder, suffix: texts(chosen, folder, suffix),
        "server_names": [f"{_leaf(module)}.SERVER," for module in gather(chosen, "servers")],
    }


def packages(chosen: list[Option]) -> dict[str, dict[str, str]]:
    """The modules of ``src/app`` by their folder, with the first sentence of each docstring."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for root in (TEMPLATE, *(TEMPLATE / option.folder for option in chosen)):
        app = root / "src" / "app"
        for path in [*app.rglob("*.py"), *app.rglob("*.py.jinja")]:
            name = path.name.removesuffix(".jinja")
            if name != "__init__.py" or path.parent.name == "tracing":
                folder = path.parent.relative_to(app).as_posix()
                found[folder][name] = _summary(path)
    return {folder: dict(sorted(found[folder].items())) for folder in sorted(found)}


def parts(chosen: list[Option], path: str) -> list[str]:
    """The templates at that path of the chosen options, which other templates import."""
    folders = [option.folder for option in chosen if (TEMPLATE / option.folder / path).is_file()]
    return [f"{TEMPLATE.name}/{folder}/{path}" for folder in folders]


def texts(chosen: list[Option], folder: str, suffix: str) -> dict[str, str]:
    """The files of a project's folder that are no templates, by name without suffix."""
    roots = (TEMPLATE, *(TEMPLATE / option.folder for option in chosen))
    paths = [path for root in roots for path in (root / folder).glob(f"*.{suffix}")]
    by_name = sorted(paths, key=lambda path: path.name)
    return {path.stem: path.read_text(encoding="utf-8") for path in by_name}


def _summary(path: Path) -> str:
    """The first line of a module's docstring, without its full stop."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].removesuffix(".")


def _import(module: str) -> str:
    package, _, name = module.rpartition(".")
    return f"from {package} import {name}"


def _import_router(module: str) -> str:
    """The import of a feature's router, ``app.items``, or of one module's, ``app.items.prices``."""
    feature, _, name = module.removeprefix("app.").rpartition(".")
    source = f"from app.{feature} import {name}" if feature else f"from {module} import router"
    return f"{source} as {_router(module)}"


def _router(module: str) -> str:
    return module.removeprefix("app.").removeprefix("platform.").replace(".", "_")


def _mounted(module: str) -> str:
    """A feature's router; the platform's is made for the callers, whom ``auth`` knows itself."""
    platform = module.startswith("app.platform.") and not module.startswith("app.platform.auth.")
    return f"{_router(module)}.{'create_router(auth.current_user)' if platform else 'router'}"


def _leaf(module: str) -> str:
    return module.rpartition(".")[2]


def choices(options: tuple[Option, ...]) -> dict[str, str]:
    """The choices of each question, as JSON, which Copier reads as YAML."""
    lines: dict[str, dict[str, str]] = defaultdict(dict)
    for option in options:
        question = SEVERAL.get(option.question, option.question)
        lines[question][f"{option.label}: {option.help}"] = option.choice
    listed = {question: json.dumps(each) for question, each in lines.items() if question != FACT}
    return defaultdict(lambda: "{}", listed)
