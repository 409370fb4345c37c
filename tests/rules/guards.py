"""The guards: each reads the template and returns what breaks its rule, one line for each offence.

``root`` is a folder with ``copier.yml``, ``extensions`` and ``template`` in it: this repository, or
a copy in which a test has broken something on purpose.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path

import yaml

from extensions import answers, options
from tests import generator
from tests.rules import expressions

SLOT = re.compile(r"^ *# \{\{ \w+ \}\}$", re.MULTILINE)
REVISION = re.compile(r"^revision(?:: str)? = \"([a-z_]+_\d{4})\"$", re.MULTILINE)
# `alembic_version` is the migrations' own.
CREATED = re.compile(
    r"\bCREATE (?:TABLE|SEQUENCE|TYPE) (?:IF NOT EXISTS )?"
    r"(?!\w+_of_a_test\b|alembic_version\b|IF\b)(\w+)"
)
STRING = re.compile(r'"[^"\n]*"')
# Answers whose word the core needs for something else.
HOMONYMS = {
    "none": "Python's None",
    "compose": "the local stack, which every project has",
    "session": "SQLAlchemy's, of the database",
    "postgres": "the database, which every service has",
    "api_key": "a name that is never logged",
    "websockets": "the protocol, and its package, which every server speaks",
    "idempotency": "a property of requests (RFC 9110), and a header of them",
    "flags": "the parameter of Python's regular expressions",
    "console": "an exporter of OpenTelemetry, and what clouds call their web page",
    "otlp": "OpenTelemetry's protocol, which every backend speaks",
}


# The standard variables of OpenTelemetry are in every service's contract, read or not; those of
# AWS's SDKs belong to every option that calls AWS.
CONTRACT = re.compile(r"\b(?:OTEL|AWS)_[A-Z_]+")


def core(root: Path) -> Iterator[Path]:
    """Yield the files that every project has."""
    for path in generator.files(root / "template"):
        if not options.FOLDER.fullmatch(path.relative_to(root / "template").parts[0]):
            yield path


def python(root: Path) -> Iterator[Path]:
    """Yield the Python files of the template, those with slots among them."""
    for path in generator.files(root / "template"):
        if path.name.endswith((".py", ".py.jinja")):
            yield path


def _options(root: Path) -> tuple[options.Option, ...]:
    """Read the options anew: a test may just have broken one."""
    options.load.cache_clear()
    return options.load(root / "template")


def manifests(root: Path) -> list[str]:
    """Say what the loader of the options refuses."""
    try:
        _options(root)
    except options.OptionError as error:
        return [str(error)]
    return []


def python_parses(root: Path) -> list[str]:
    """Every Python file of the template is valid Python as it stands."""
    return [f"{path}: {error}" for path in python(root) if (error := _syntax_error(path))]


def _syntax_error(path: Path) -> str:
    try:
        ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        return str(error)
    return ""


def python_has_no_tags(root: Path) -> list[str]:
    """Python files hold no control line; expressions stand in slots and in strings alone."""
    found = []
    for path in python(root):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jinja" and re.search(r"\{[%#]", text):
            found.append(f"{path}: has a Jinja tag; a slot or an option's folder would be right")
        elif path.suffix == ".jinja" and "{{" in STRING.sub("", SLOT.sub("", text)):
            found.append(f"{path}: has a Jinja expression that is neither a slot nor in a string")
        elif path.suffix == ".py" and re.search(r"\{%|# \{\{", text):
            found.append(f"{path}: looks like Jinja, but its name doesn't end with .jinja")
    return found


def python_is_linted(root: Path) -> list[str]:
    """Ruff, with the rules of a generated service, finds nothing in the files as they stand."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        config = _ruff_config(root)
        for path in python(root):
            inside = path.relative_to(root / "template")
            folders = [*takewhile(options.FOLDER.fullmatch, inside.parts)]
            layer = "/".join(folders)
            target = copy / (layer or "core") / inside.relative_to(layer)
            target = target.with_name(target.name.removesuffix(".jinja"))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
            (copy / (layer or "core") / "ruff.toml").write_text(config)
        check = _ruff("check", "--output-format=concise", copy)
        return check + _ruff("format", "--check", copy)


def _ruff_config(root: Path) -> str:
    """Return the ruff table of the template's ``pyproject.toml``, which no answer changes."""
    text = (root / "template" / "pyproject.toml.jinja").read_text(encoding="utf-8")
    table = re.search(r"^\[tool\.ruff\].*?(?=^\[(?!tool\.ruff))", text, re.MULTILINE | re.DOTALL)
    assert table, "pyproject.toml.jinja has no [tool.ruff]"
    tomllib.loads(table[0])
    config = re.sub(r"\[tool\.ruff\.?", "[", table[0]).replace("[]\n", "", 1)
    return f'target-version = "py311"\n{config}'


def _ruff(command: str, *arguments: str | Path) -> list[str]:
    ruff = [sys.executable, "-m", "ruff", command, "--no-cache"]
    done = subprocess.run([*ruff, *arguments], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).splitlines() if done.returncode else []


def core_names_no_option(root: Path) -> list[str]:
    """No shared file names an option: adding one must not mean editing them."""
    known = _options(root)
    words = {o.choice for o in known if o.question != options.FACT} - set(HOMONYMS)
    named = re.compile(rf"(?i)(?<![a-z0-9])({'|'.join(sorted(words))})(?![a-z0-9])")
    questions = {o.question for o in known} - {options.FACT}
    asked = re.compile(rf"\{{[{{%][^}}]*(?<![\w\"'.])({'|'.join(questions)})\b[^}}]*[%}}]\}}")
    found = []
    for path in core(root):
        text = CONTRACT.sub("", path.read_text(encoding="utf-8", errors="replace"))
        found += [f"{path}: names the option {match[0]!r}" for match in named.finditer(text)]
        if path.suffix == ".jinja":
            found += [f"{path}: asks for an answer: {m[0]}" for m in asked.finditer(text)]
    return found


def facts_can_be_chosen(root: Path) -> list[str]:
    """Every ``{{with_...}}`` folder is provided by an option, or asked for by a yes/no question."""
    known = _options(root)
    provided = {fact for option in known for fact in option.provides}
    asked = {name for name, q in answers.questions().items() if q["type"] == "bool"}
    return [
        f"{o.name}: nothing provides it, and no question asks for it"
        for o in known
        if o.question == options.FACT and o.choice not in provided | asked
    ]


def options_can_be_asked_for(root: Path) -> list[str]:
    """Every option's question is one of ``copier.yml``."""
    asked = yaml.safe_load((root / "copier.yml").read_text(encoding="utf-8"))
    return [
        f"{o.variable}: copier.yml has no question `{options.SEVERAL.get(o.question, o.question)}`"
        for o in _options(root)
        if o.question != options.FACT and options.SEVERAL.get(o.question, o.question) not in asked
    ]


def expressions_do_not_backtrack(root: Path) -> list[str]:
    """No expression of the service's code backtracks: strangers choose the texts of many.

    Patterns of Pydantic's fields are others: Rust's engine takes linear time.
    """
    found = []
    for path in python(root):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name("re")), args=[pattern, *_]):
                    text = _text(pattern)
                    if "src/app" in path.as_posix() and expressions.backtracks(text):
                        found.append(f"{path}:{node.lineno}: {text}")
    return found


def _text(pattern: ast.expr) -> str:
    """The constant parts of a string, or of bytes, with an ``x`` in place of each other part."""
    match pattern:
        case ast.Constant(str(text)):
            return text
        case ast.Constant(bytes(raw)):
            return raw.decode("latin-1")
        case ast.JoinedStr(parts):
            return "".join(_text(part) for part in parts)
        case _:
            return "x"


def migrations_say_whose_they_are(root: Path) -> list[str]:
    """By this a service knows a part that is gone: its ``app.platform.data.revisions``."""
    return [
        f"{path.relative_to(root)}: a part's revision would be `<branch>_0001`, and begin its file"
        for path in (root / "template").glob("*/migrations/versions/*.py")
        if not (found := REVISION.search(path.read_text(encoding="utf-8")))
        or not path.name.startswith(found[1])
    ]


def tests_leave_names_to_the_owner(root: Path) -> list[str]:
    """Tables, sequences and types of a service's tests have names that no feature would choose."""
    offences = []
    for path in python(root):
        if "tests" in path.relative_to(root).parts:
            names = CREATED.findall(path.read_text(encoding="utf-8"))
            offences += [f"{path.relative_to(root)}: name it {name}_of_a_test" for name in names]
    return offences


def images_can_be_read(root: Path) -> list[str]:
    """A checkout with umask 077 makes an image whose user can read it: each COPY sets the mode."""
    return [
        f"{path.relative_to(root)}: {line}: without --chmod, the checkout's umask decides"
        for path in generator.files(root / "template")
        if path.name.startswith("Dockerfile")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"(COPY|ADD) ", line) and "--chmod=" not in line and "--from=" not in line
    ]


def documents_parse(root: Path) -> list[str]:
    """Every YAML, TOML and JSON file that is copied byte for byte can be read."""
    found = []
    for path in generator.files(root / "template", *READERS):
        try:
            READERS[path.suffix](path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError) as error:
            found.append(f"{path}: {error}")
    return found


def _read_yaml(text: str) -> None:
    list(yaml.compose_all(text, Loader=yaml.SafeLoader))


def _read_json(text: str) -> None:
    """Read JSON with comment lines, as editors do."""
    json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))


READERS: dict[str, Callable[[str], object]] = {
    ".yml": _read_yaml,
    ".yaml": _read_yaml,
    ".toml": tomllib.loads,
    ".json": _read_json,
}

ALL = (
    manifests,
    python_parses,
    python_has_no_tags,
    python_is_linted,
    core_names_no_option,
    facts_can_be_chosen,
    options_can_be_asked_for,
    documents_parse,
    expressions_do_not_backtrack,
    images_can_be_read,
    migrations_say_whose_they_are,
    tests_leave_names_to_the_owner,
)
