"""Lists in which the owner's lines stand next to the template's: ``api.py`` and ``main.py``."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import generator
from tests.updates import world

API = "src/app/api.py"
ITEMS = "from app.items import router as items\n"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    template = generator.copy_of_template(tmp_path_factory.mktemp("lists") / "template")
    world.publish(template, "1.0.0")
    return template


@pytest.fixture(scope="module")
def made(template: Path, tmp_path_factory: pytest.TempPathFactory) -> world.Service:
    return world.Service.make(template, tmp_path_factory.mktemp("made") / "x", version="1.0.0")


@pytest.fixture
def service(made: world.Service, tmp_path: Path) -> world.Service:
    return made.copy(tmp_path / "service")


def add_features(service: world.Service, before: list[str], after: list[str]) -> None:
    """Add features right before and right after the example's lines, as Ruff sorts them."""
    imports = {name: f"from app.{name} import router as {name}\n" for name in (*before, *after)}
    routers = {name: f"            {name}.router,\n" for name in (*before, *after)}
    for items, lines in ((ITEMS, imports), ("            items.router,\n", routers)):
        above, below = ("".join(lines[name] for name in names) for names in (before, after))
        service.change(API, items, f"{above}{items}{below}")


def update(service: world.Service, **given: str) -> str:
    world.commit(service.folder)
    done = service.update("--vcs-ref", ":current:", **given)
    assert done.returncode == 0, done.stdout
    return done.stdout


def imports_are_sorted(service: world.Service) -> bool:
    ruff = [sys.executable, "-m", "ruff", "check", "--quiet", "--select=I", API]
    return subprocess.run(ruff, cwd=service.folder, check=False).returncode == 0


def test_the_example_is_removed_from_between_features_of_the_owner(
    template: Path, service: world.Service, tmp_path: Path
) -> None:
    add_features(service, ["buoys", "charts"], ["orders"])
    said = update(service, example="false")
    assert "changed the same lines" not in said
    without = world.Service.make(template, tmp_path / "x", version="1.0.0", example="false")
    mine, theirs = service.read(API).splitlines(), without.read(API).splitlines()
    own = [line for line in mine if line not in theirs]
    assert len(own) == 2 * 3
    assert [line for line in mine if line not in own] == theirs
    assert imports_are_sorted(service)
    assert " M src/app/api.py" in service.status()


def test_an_example_that_its_owner_removed_stays_removed_beside_new_lines(
    service: world.Service,
) -> None:
    """``features=[webhooks]`` adds lines next to those of the example."""
    service.change(API, ITEMS, "")
    service.change(API, "            items.router,\n", "")
    assert "changed the same lines" not in update(service, features="[webhooks]")
    assert ITEMS not in service.read(API)
    assert " items.router" not in service.read(API)
    assert imports_are_sorted(service)


def test_lines_that_both_sides_changed_are_a_conflict(service: world.Service) -> None:
    add_features(service, ["buoys"], [])
    service.change(API, "import router as items\n", "import first as items\n")
    said = update(service, example="false")
    assert "changed the same lines" in said
    assert "import first as items" in service.read(API)
    assert "from app.buoys" in service.read(API)
