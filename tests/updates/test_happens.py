"""What the documentation says happens in an update is what happens."""

import re
from pathlib import Path

import pytest

from tests import generator
from tests.updates import happens, world

DOCUMENT = generator.ROOT / "docs" / "updating.md"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> world.Service:
    """A service with every default, from the first of two versions of the template."""
    folder = tmp_path_factory.mktemp("happens")
    template = generator.copy_of_template(folder / "template")
    world.publish(template, "1.0.0")
    happens.next_version(template / "template")
    world.publish(template, "1.1.0")
    return world.Service.make(template, folder / "service", version="1.0.0")


@pytest.mark.parametrize("case", happens.CASES, ids=[case.what for case in happens.CASES])
def test_what_happens_is_what_is_said(
    service: world.Service, case: happens.Happening, tmp_path: Path
) -> None:
    assert case.try_it(service.copy(tmp_path / "service")) == case.comes_to


def test_the_table_in_the_documentation_has_every_case() -> None:
    rows = re.findall(r"^\| (.+) \| (.+) \|$", DOCUMENT.read_text(), flags=re.MULTILINE)
    assert [row for row in rows if row[0] != "what"] == [
        (c.what, c.comes_to) for c in happens.CASES
    ]
