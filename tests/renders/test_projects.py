"""Every combination of answers gives a project that is whole, clean, and has nothing to spare."""

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest_copier.plugin import CopierFixture

from extensions import answers
from tests import generator, matrix, toolbox
from tests.renders import leftovers

# Requirements that nothing imports by name, and what needs them.
USED_OTHERWISE = {
    "asyncpg": "SQLAlchemy loads it, for postgresql+asyncpg",
    "email-validator": "Pydantic loads it, for EmailStr",
    "python-multipart": "FastAPI loads it, for forms",
    "fastapi-offline": "its files for the documentation pages are served",
    "uvicorn": "app dev runs it as a command",
    "celery": "the worker runs it",
}

NAMESPACE = "opentelemetry"
# Packages of the `dev` group whose name and modules are in no file, and what needs them.
DEV_USED_OTHERWISE = {
    "anyio": "its plugin of pytest runs async tests",
    "polyfactory": "the factories of a feature's tests",
    "pytest-cov": "pytest's option --cov",
    "pytest-xdist": "pytest's option -n",
    "python-multipart": "FastAPI loads it, for the forms of tests",
    "squawk-cli": "the command squawk",
}

# Hooks whose command `make lint` has too, or another test of this module or of the service; a
# project has no uv.lock.
HOOKS_RUN_ELSEWHERE = "lint,format,openapi,imports,dependencies,dev-dependencies,types,lock"

# As `app migration` writes it. Its ids look random, as half of all ids do.
MIGRATION = '''"""add orders"""

revision: str = "547d5268e48c"
down_revision: str | Sequence[str] | None = "8a05f7c3d19e"
'''


def _parameters() -> list[Any]:
    """Return the rows by queue: a process takes neighbours, and its mypy knows their libraries."""
    rows = sorted(matrix.matrix(), key=lambda row: str(row.answers["queue"]))
    besides = [
        [pytest.mark.besides] * (row.name not in matrix.PRESETS)
        + [pytest.mark.rotates("combinations", shares=10)] * (not row.always)
        for row in rows
    ]
    return [
        pytest.param(row, id=row.name, marks=marks)
        for row, marks in zip(rows, besides, strict=True)
    ]


@pytest.fixture(scope="session", params=_parameters())
def project(
    request: pytest.FixtureRequest,
    session_copier: CopierFixture,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    to = tmp_path_factory.mktemp("r") / "service"
    return session_copier.copy(to, **request.param.given).path


@pytest.fixture(scope="session")
def python(project: Path) -> Path:
    """A Python with all that the project needs."""
    return toolbox.python_for(project)


@pytest.fixture(scope="session")
def mypy_cache(python: Path, worker_id: str) -> Path:
    """What mypy knows of the libraries, shared by the renders of this process and later ones."""
    return python.parent.parent / f"mypy-{worker_id}"


def test_nothing_of_the_template_is_left(project: Path) -> None:
    assert leftovers.jinja(project) == []


def test_nothing_of_other_options_is_left(project: Path) -> None:
    assert leftovers.options_not_chosen(project) == []


def test_no_secret_is_rendered(project: Path) -> None:
    assert leftovers.secrets(project) == []


def test_the_hooks_of_its_first_commit_find_nothing(
    project: Path, python: Path, tmp_path: Path
) -> None:
    """The checks before a commit, which the pipeline repeats, on every file of a new service."""
    first_migration = {"migrations/versions/20260101_add_orders.py": MIGRATION}
    assert toolbox.hooks(python, project, tmp_path, HOOKS_RUN_ELSEWHERE, first_migration) == ""


def test_documents_can_be_read(project: Path) -> None:
    for path in generator.files(project, ".yml", ".yaml"):
        assert list(yaml.compose_all(path.read_text(), Loader=yaml.SafeLoader)), path
    for path in generator.files(project, ".toml"):
        assert tomllib.loads(path.read_text()), path
    for path in generator.files(project, ".json"):
        assert json.loads(re.sub(r"^\s*//.*$", "", path.read_text(), flags=re.MULTILINE)), path


def test_make_lint_finds_nothing(project: Path, python: Path) -> None:
    """Ruff, the contracts of the imports, and the declared dependencies."""
    assert toolbox.make(python, project, "lint") == ""


def test_no_import_goes_up_or_in_a_circle(project: Path, python: Path) -> None:
    assert toolbox.run(python, project, "tools/import_graph.py") == ""


def test_an_import_inside_a_function_has_a_reason(project: Path, python: Path) -> None:
    rule = "test_structure.py::test_an_import_inside_a_function_has_a_reason"
    assert toolbox.pytest(python, project, f"tests/{rule}") == ""


def test_types_are_strict_and_right(project: Path, python: Path, mypy_cache: Path) -> None:
    assert toolbox.run(python, project, "-m", "mypy", "--cache-dir", str(mypy_cache)) == ""


def test_every_requirement_is_used(project: Path, python: Path) -> None:
    declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[\[><= ]", each)[0] for each in declared}
    assert len(names) == len(declared), "something is required twice"
    imported = set(_imported(project))
    provided = _modules(python, names - set(USED_OTHERWISE))
    unused = [name for name, modules in provided.items() if not imported & set(modules)]
    assert unused == []


def test_no_project_can_have_the_name_of_a_package_that_it_installs(python: Path) -> None:
    script = (
        "import importlib.metadata as m, sys; sys.exit(' '.join(d.name for d in m.distributions()))"
    )
    listed = toolbox.run(python, python.parent, "-c", script)
    installed = [re.sub(r"[-_.]+", "-", name.lower()) for name in listed.split()]
    assert "pytest" in installed
    assert [name for name in installed if not answers.refusal("project_name", name)] == []


def test_every_requirement_of_development_is_used(project: Path, python: Path) -> None:
    """It is imported, or a command, a hook or a plugin is named so; stubs are of something used."""
    declared = tomllib.loads((project / "pyproject.toml").read_text())
    names = {re.split(r"[\[><= ;]", each)[0] for each in declared["dependency-groups"]["dev"]}
    folders = ("src", "tests", "tools", "benchmarks", "migrations", ".ci", ".github")
    files = [path for folder in folders for path in (project / folder).rglob("*.*")]
    files += [project / name for name in ("Makefile", ".pre-commit-config.yaml")]
    text = "\n".join(path.read_text() for path in files if path.suffix != ".pyc")
    unused = {
        name
        for name, modules in _modules(python, names - set(DEV_USED_OTHERWISE)).items()
        if not any(_named(word, text) for word in {name, *_outermost(modules)})
    }
    stubs = {name for name in unused if re.match(r"types-|.+-stubs$", name)}
    assert unused == stubs


def _named(word: str, text: str) -> bool:
    return bool(re.search(rf"(?<![\w.]){re.escape(word)}\b", text))


def _outermost(modules: list[str]) -> set[str]:
    """Return the modules that are in no other one: a package has hundreds, and text is long."""
    known = {*modules}
    return {each for each in modules if not known & {*_parents(each)}}


def _parents(module: str) -> Iterator[str]:
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def test_every_import_from_a_shared_namespace_is_required(project: Path, python: Path) -> None:
    """Deptry takes one package of a namespace for all of them."""
    declared = tomllib.loads((project / "pyproject.toml").read_text())
    required = {*declared["project"]["dependencies"], *declared["dependency-groups"]["dev"]}
    names = {re.split(r"[\[><= ;]", each)[0] for each in required}
    there = {module for modules in _modules(python, names).values() for module in modules}
    for path in [*(project / "src").rglob("*.py"), *(project / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(NAMESPACE):
                given = {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
                assert given & there, f"{path}: {node.module}"


def _imported(project: Path) -> Iterator[str]:
    """Yield the modules that the service imports, with those that they are in."""
    run_time = [*(project / "src").rglob("*.py"), *(project / "migrations").rglob("*.py")]
    for path in [*run_time, *project.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
            for name in names:
                parts = name.split(".")
                yield from (".".join(parts[: n + 1]) for n in range(len(parts)))


def _modules(python: Path, names: set[str]) -> dict[str, list[str]]:
    """Return the modules that each distribution installs, those inside namespaces too."""
    script = (
        "import sys, json, importlib.metadata as m\n"
        "print('\\n' + json.dumps({n: sorted({str(f.parent).replace('/', '.') "
        "if f.name == '__init__.py' else str(f)[:-3].replace('/', '.') "
        "for f in m.files(n) if f.suffix == '.py'}) for n in sys.argv[1:]}))\n"
        "sys.exit(1)"
    )
    listed = toolbox.run(python, Path.cwd(), "-c", script, *sorted(names))
    found: dict[str, list[str]] = json.loads(listed)
    return found


def test_the_documented_environment_is_the_one_that_settings_read(
    project: Path, python: Path
) -> None:
    """A variable of ``.env.example`` that nothing reads would be a lie, as would a missing one."""
    assert toolbox.pytest(python, project, "tests/test_environment.py") == ""


@pytest.mark.parametrize(
    "row", [row for row in matrix.matrix() if row.name in matrix.PRESETS], ids=lambda r: r.name
)
def test_the_same_answers_give_the_same_bytes(
    row: matrix.Row, copier: CopierFixture, tmp_path: Path
) -> None:
    """So nothing random, such as a secret, is ever made while rendering."""
    one, other = (copier.copy(tmp_path / name, **row.given) for name in "ab")
    one.assert_equal(other.path)
