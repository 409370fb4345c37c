"""The documentation of this repository names only what exists."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from extensions import options
from tests.generator import ROOT

TEMPLATE = ROOT / "template"
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
ENDS = ("", ".jinja")
LAYOUT = [  # tokens that are not code
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
]


def named(pattern: str, text: str) -> set[str]:
    return set(re.findall(pattern, text))


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    page: Path = request.param
    return page


@pytest.fixture
def text(page: Path) -> str:
    """A page; of the changelog, only what is not about old versions."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"(?m)^\| [^|]+ \|", "|", text) if page.name == "CHANGELOG.md" else text


def roots() -> Iterator[Path]:
    """The folders that are laid over a service: the core, and each option."""
    yield TEMPLATE
    yield from (TEMPLATE / option.folder for option in options.load())


@cache
def modules() -> dict[str, list[Path]]:
    """Each module of a service, with its files: several options may have one of the same name."""
    found: dict[str, list[Path]] = {}
    for root in roots():
        for path in [*(root / "src").rglob("*.py"), *(root / "src").rglob("*.py.jinja")]:
            name = path.relative_to(root / "src").as_posix().removesuffix(".jinja")
            module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            found.setdefault(module, []).append(path)
    packages = {name.rpartition(".")[0] for name in found if "." in name}
    return {package: [] for package in packages} | found


def exists(dotted: str) -> bool:
    """Whether ``app.a.b`` is a module of some service, or a name that one of them defines."""
    module, _, name = dotted.rpartition(".")
    return dotted in modules() or any(
        re.search(rf"\b{name}\b", path.read_text()) for path in modules().get(module, ())
    )


def test_links_lead_somewhere(page: Path, text: str) -> None:
    links = named(r"\]\(([^)#:]+)\)", text)
    assert {link for link in links if not (page.parent / link).exists()} == set()


def test_paths_exist(text: str) -> None:
    folders = r"tests|docs|extensions|template|\.ci|\.github|src|deploy|migrations"
    missing = {
        path
        for path in named(rf"`((?:{folders})/[^`\s*<…:]+)(?:::\w+)?`", text)
        if not any((root / f"{path}{end}").exists() for root in [ROOT, *roots()] for end in ENDS)
    }
    assert {path for path in missing if not re.search(r"queue_rq|\.rej$", path)} == set()


def test_modules_exist(text: str) -> None:
    dotted = named(r"`(app(?:\.[a-zA-Z_]+)+)`", text)
    examples = {"app.items", "app.thing", "app.platform.dev.thing"}
    assert {each for each in dotted - examples if not exists(each)} == set()


def test_make_targets_exist(text: str) -> None:
    makefiles = (ROOT / "Makefile").read_text() + (TEMPLATE / "Makefile.jinja").read_text()
    targets = named(r"(?m)^([a-z-]+):", makefiles)
    commands = named(r"`make ([a-z -]+)", text) | named(r"(?m)^make ([a-z-]+)", text)
    assert {word for command in commands for word in command.split()} - targets == set()


def test_an_option_guide_names_what_the_ports_have() -> None:
    text = (ROOT / "docs" / "adding-an-option.md").read_text()
    rows = re.findall(r"(?m)^\| `\w+` \| `(app[\w.]+)` \| (.+) \|$", text)
    assert len(rows) == 3
    for port, cell in rows:
        scopes = {port, *named(r"`(app(?:\.[a-z_]+)+)`", cell)}
        names = named(r"`([A-Za-z_]+)`", cell) - {"rq", "eventloop", "seed", "sign_in"}
        files = [path for scope in scopes for path in modules()[scope]]
        source = "\n".join(path.read_text() for path in files)
        assert {name for name in names if not re.search(rf"\b{name}\b", source)} == set(), port


def test_the_agents_page_is_short() -> None:
    assert len((ROOT / "AGENTS.md").read_text().splitlines()) < 150
    assert "AGENTS.md" in (ROOT / "CLAUDE.md").read_text()


def test_each_decision_has_a_number_of_its_own() -> None:
    pages = sorted((ROOT / "docs/adr").glob("*.md"))
    numbers = [int(page.read_text(encoding="utf-8").split(".")[0].lstrip("# ")) for page in pages]
    assert numbers == list(range(1, len(pages) + 1))
    assert [int(page.name[:4]) for page in pages] == numbers


def test_renamed_settings_are_in_the_changelog() -> None:
    """The first release drops the old names; until then, an owner has to know the new one."""
    text = (ROOT / "CHANGELOG.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    for path in TEMPLATE.glob("**/src/app/platform/settings/*.py"):
        for old, new in renamed(path):
            assert any(f"`{old}`" in row and f"`{new}`" in row for row in rows), (old, new)


def renamed(path: Path) -> Iterator[tuple[str, str]]:
    """Old and new variable of each setting that a module declares as renamed."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "renamed":
            pairs: dict[str, str] = ast.literal_eval(node.value) if node.value else {}
            yield from ((old.upper(), new.upper()) for old, new in pairs.items())


def code_lines(path: Path) -> int:
    """Lines with code: no blank lines, comments or docstrings. As ``make graph`` counts."""
    lines: set[int] = set()
    source = path.read_text()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(lines)


def sizes(preset: str) -> tuple[int, int]:
    """Code lines of a preset's service, and how many of them are the owner's."""
    available = options.load()
    chosen = options.choose(available, options.defaults(available, preset))
    total = owned = 0
    for root in [TEMPLATE, *(TEMPLATE / option.folder for option in chosen)]:
        for path in [*(root / "src").rglob("*.py"), *(root / "src").rglob("*.py.jinja")]:
            lines = code_lines(path)
            total += lines
            owned += lines * ("platform" not in path.relative_to(root).parts)
    return total, owned


@pytest.mark.parametrize(
    ("preset", "sentence"),
    [
        ("standard", r"about ([\d,]+) lines of code. About ([\d,]+) of them are yours"),
        ("minimal", r"the minimal service has ([\d,]+), of which about ([\d,]+) are yours"),
    ],
)
def test_the_readme_gives_the_right_sizes(preset: str, sentence: str) -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    stated = re.search(sentence, text)
    assert stated
    for figure, counted in zip(stated.groups(), sizes(preset), strict=True):
        assert int(figure.replace(",", "")) == pytest.approx(counted, rel=0.05)
