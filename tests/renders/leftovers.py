"""What a rendered project must not hold: Jinja, secrets, traces of options that nobody chose.

Each function returns what it found, one line for each offence.
"""

import re
from pathlib import Path

import yaml

from extensions import options
from tests import generator
from tests.rules.guards import CONTRACT, HOMONYMS

TAG = re.compile(r"\{%-? |-?%\}|\{#-? |\{\{")
# Formats whose own syntax has double braces: GitHub's expressions, Prometheus', Docker's, Argo's,
# Renovate's.
DOUBLE_BRACES = re.compile(
    r"\$\{\{[^}]*\}\}|\{\{ ?[$.][^}]*\}\}|\{\{[a-z_]+\}\}|\{\{args\.[a-z]+\}\}"
    r"|\{\{\{[a-zA-Z]+\}\}\}|\{\{[#/]if\b[^}]*\}\}"
)
SECRET = re.compile(
    r"(?i)\b[a-z_]*(?:secret|password|passwd|token|api_?key|private_?key)[a-z_]*[\"']?\s*[:=]\s*"
    r"[\"']?(?P<value>[A-Za-z0-9+/_=-]{16,})[\"']?\s*$|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
# Packages that an option requires and whose names other services have as words: of HTTP, or of what
# packages of the core require. They are looked for where they are declared, imported or configured.
COMMON = {"cryptography", "httpcore2", "requests"}
# Other vendors' variables that are named like an option: the option whose files may set them.
FOREIGN = {"ECS_FARGATE": "tracing_datadog"}
# What a package is imported as, where an option has that name and is not the only one to use it.
MODULES = {"pyjwt": "jwt"}
PLACE = re.compile(r"\b(?:src|tests|docs|migrations|deploy|compose)(?:/[\w.-]*\w)+|\bapp(?:\.\w+)+")
Found = list[str]


def jinja(project: Path) -> Found:
    """Find what the template engine should have replaced."""
    found = []
    for path in generator.files(project):
        if path.name.endswith(".jinja") or "{{" in path.name:
            found.append(f"{path}: the name was not rendered")
        text = DOUBLE_BRACES.sub("", path.read_text(encoding="utf-8", errors="replace"))
        if path.suffix in {".py", ".mako"}:  # f-strings have braces; Mako has its own tags
            text = "\n".join(re.findall(r"# \{\{.*|\{% .*", text))
        found += [f"{path}: {match[0]}" for match in TAG.finditer(text)]
    return found


def secrets(project: Path) -> Found:
    """Find a long literal that is given to something named like a secret."""
    found = []
    for path in generator.files(project):
        if path.relative_to(project).parts[0] == "tests":  # they forge tokens, and rightly so
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            match = SECRET.search(line)
            if match and (match["value"] is None or re.search(r"\d", match["value"])):
                found.append(f"{path}:{number}: {line.strip()}")
    return found


def options_not_chosen(project: Path) -> Found:
    """Find files, names, settings, requirements and services of options that nobody chose."""
    known = options.load()
    chosen = options.choose(known, _answers(project))
    mine = set().union(*(_traces(option) for option in chosen))
    theirs = {
        trace: option.variable
        for option in known
        if option not in chosen
        for trace in _traces(option) - mine
    }
    return [
        *_extra_files(project, chosen),
        *_words(project, theirs, {option.variable for option in chosen}),
        *_places(project, known, chosen),
        *_features(project, known, chosen),
    ]


def _answers(project: Path) -> dict[str, object]:
    kept = (project / ".copier-answers.yml").read_text(encoding="utf-8")
    answers: dict[str, object] = yaml.safe_load(kept)
    return answers


def _traces(option: options.Option) -> set[str]:
    """Return the words that speak of one option alone."""
    named = {option.choice} - set(HOMONYMS) if option.question != options.FACT else set()
    packages = (*option.dependencies, *option.dev_dependencies)
    required = {re.split(r"[\[><=]", each)[0] for each in packages} - _core()
    settings = {variable.name for variable in option.env} | set(option.compose_environment)
    modules = {*option.components, *option.routers, *option.compose_volumes}
    imported = {MODULES[name] for name in required & set(MODULES)}
    return named | required | imported | settings | modules | set(option.compose)


def _core() -> set[str]:
    """Return the packages that every service has, which speak of no option."""
    pyproject = (generator.ROOT / "template" / "pyproject.toml.jinja").read_text(encoding="utf-8")
    return {*re.findall(r'^    "([A-Za-z0-9._-]+)', pyproject, flags=re.MULTILINE)}


def _extra_files(project: Path, chosen: list[options.Option]) -> Found:
    """Find files that neither the core nor a chosen option has at that path."""
    allowed = {*options.written(chosen), ".copier-answers.yml"}
    there = {path.relative_to(project).as_posix() for path in generator.files(project)}
    return [f"{project / path}: belongs to nothing that was chosen" for path in there - allowed]


def _places(
    project: Path, known: tuple[options.Option, ...], chosen: list[options.Option]
) -> Found:
    """Find the names of files and modules that only options have which nobody chose."""
    here, everywhere = options.written(chosen), options.written([*known])
    theirs = {*everywhere - here, *map(_module, everywhere - here)} - {*map(_module, here)}
    return [
        f"{path}: names {place}, which belongs to nothing that was chosen"
        for path in generator.files(project)
        if path.relative_to(project).parts[0]
        != "tests"  # which handle what only some services have
        for place in theirs & {*PLACE.findall(path.read_text(errors="replace"))}
    ]


def _module(path: str) -> str:
    """Return the name that a file of Python is imported by."""
    name = path.removesuffix(".py").removesuffix("/__init__").removeprefix("src/")
    return name.replace("/", ".") if path.endswith(".py") else path


def _features(
    project: Path, known: tuple[options.Option, ...], chosen: list[options.Option]
) -> Found:
    """Find the words of a feature that nobody chose: its paths, scopes, jobs and messages."""
    names = {
        path.split("/")[2]
        for path in options.written([*known]) - options.written(chosen)
        if path.startswith("src/app/") and path.count("/") == 3 and path.endswith("/__init__.py")
    } - {option.choice for option in chosen}
    found = []
    for name in sorted(names):
        one = name.removesuffix("s")
        words = re.compile(
            rf"(?<![\w.$\[-]){name}(?=[:.]\w)|/{name}\b|\b{one}_id\b|\bsuch {one}\b", re.IGNORECASE
        )
        found += [
            f"{path}:{number}: {match[0]!r} is of the feature {name}: {line.strip()}"
            for path in generator.files(project)
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
            for match in words.finditer(line)
        ]
    return found


def _words(project: Path, theirs: dict[str, str], chosen: set[str]) -> Found:
    theirs = {trace: option for trace, option in theirs.items() if not CONTRACT.fullmatch(trace)}
    if not theirs:
        return []
    common = "|".join(map(re.escape, sorted(COMMON & set(theirs)))) or r"(?!)"
    words = "|".join(sorted(map(re.escape, set(theirs) - COMMON), key=len, reverse=True)) or r"(?!)"
    pattern = re.compile(
        rf"(?i:(?<![a-z0-9_.-])(?:{words})(?![a-z0-9_]))"
        rf"|(?:(?<=[\"'])|^ *(?:import|from) +)(?:{common})(?=[.\[<>=!~,]| import | as |$)"
    )
    owner = {trace.lower(): option for trace, option in theirs.items()}
    allowed = [name for name, option in FOREIGN.items() if option in chosen]
    ignored = re.compile("|".join([CONTRACT.pattern, *(rf"\b{name}\b" for name in allowed)]))
    return [
        f"{path}:{number}: {trace!r} is of {owner[trace.lower()]}: {line.strip()}"
        for path in generator.files(project)
        if path.name != ".copier-answers.yml"
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        for match in pattern.finditer(ignored.sub("", line))
        for trace in match[0].split()[-1:]
    ]
