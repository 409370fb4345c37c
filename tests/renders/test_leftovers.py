"""The search for leftovers finds what somebody leaves on purpose; the example goes by hand."""

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import generator
from tests.renders import leftovers

Search = Callable[[Path], list[str]]

LEFT: list[tuple[Search, str, str, str]] = [
    (leftovers.jinja, "README.md", "Call {{ project_name }}.", "README.md: {{"),
    (leftovers.jinja, "compose.yaml", "{% if queue %}", "compose.yaml: {% "),
    (leftovers.jinja, "src/app/api.py", "# {{ router_names }}", "api.py: {{"),
    (leftovers.jinja, "docs/new.md.jinja", "", "the name was not rendered"),
    (leftovers.secrets, ".env.example", "SECRET_KEY=8fJ2kfl39fjLs0f9jfkal3jf9", ".env.example"),
    (leftovers.secrets, "compose.yaml", "  POSTGRES_PASSWORD: kd83jfls93jfk2lf", "compose.yaml"),
    (leftovers.secrets, "src/app/x.py", 'TOKEN = "kd83jfls93jfk2lf"', "x.py"),
    (leftovers.secrets, "docs/key.md", "-----BEGIN RSA PRIVATE KEY-----", "key.md"),
    (
        leftovers.options_not_chosen,
        "README.md",
        "Stop Celery first.",
        "'Celery' is of queue_celery",
    ),
    (leftovers.options_not_chosen, "pyproject.toml", '# "pyjwt>=2.15"', "'pyjwt' is of auth_"),
    (leftovers.options_not_chosen, "pyproject.toml", '    "requests>=2.34",', "'requests' is of"),
    (leftovers.options_not_chosen, "pyproject.toml", '    "nanio>=0.1.7",', "'nanio' is of"),
    (leftovers.options_not_chosen, "src/app/x.py", "from requests.auth import X", "'requests' is"),
    (leftovers.options_not_chosen, "src/app/x.py", "    import cryptography", "'cryptography' is"),
    (leftovers.options_not_chosen, "pyproject.toml", 'module = ["httpcore2.*"]', "'httpcore2' is"),
    (leftovers.options_not_chosen, "compose.yaml", "  ECS_FARGATE: true", "'ECS_FARGATE' is of"),
    (leftovers.options_not_chosen, ".env.example", "# REGISTRATION_OPEN=true", "with_passwords"),
    (leftovers.options_not_chosen, "src/app/x.py", "import app.items", "with_example"),
    (leftovers.options_not_chosen, "docs/x.md", "GET /api/v1/items/{id}", "the feature items"),
    (leftovers.options_not_chosen, "src/app/x.py", '"""No such item."""', "the feature items"),
    (
        leftovers.options_not_chosen,
        "docs/x.md",
        "See src/app/platform/auth/tokens.py",
        "names src/app/platform/auth",
    ),
    (
        leftovers.options_not_chosen,
        "docs/x.md",
        "`app.platform.auth.tokens`",
        "names app.platform.auth.tokens",
    ),
    (leftovers.options_not_chosen, "src/app/items/x.py", "", "belongs to nothing that was chosen"),
]


@pytest.fixture(scope="module")
def minimal(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest service, in which everything optional would be a leftover."""
    to = tmp_path_factory.mktemp("minimal") / "service"
    return generator.render(template, to, preset="minimal", ci="none")


@pytest.mark.parametrize(("search", "path", "text", "said"), LEFT)
def test_a_leftover_is_found(
    minimal: Path, search: Search, path: str, text: str, said: str
) -> None:
    before = search(minimal)
    target = minimal / path
    old = target.read_bytes() if target.exists() else None
    target.parent.mkdir(exist_ok=True)
    target.write_bytes((old or b"") + f"\n{text}\n".encode())
    found = set(search(minimal)) - set(before)
    target.write_bytes(old) if old is not None else target.unlink()
    assert said in "\n".join(found)


def test_the_command_in_the_readme_deletes_all_files_of_the_example(
    template: Path, tmp_path: Path
) -> None:
    """Its smoke test would fail the next release."""
    service = generator.render(template, tmp_path / "with", preset="everything")
    without = generator.render(template, tmp_path / "without", preset="everything", example=False)
    readme = (service / "README.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^git rm (?:.*\\\n)*.*", readme, re.MULTILINE)
    for words in ("git init --quiet", "git add .", f"{command} --force --quiet"):
        subprocess.run(shlex.split(words.replace("\\\n", "")), cwd=service, check=True)
    left = {path.relative_to(service) for path in generator.files(service)}
    assert left == {path.relative_to(without) for path in generator.files(without)}
