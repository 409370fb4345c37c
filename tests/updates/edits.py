"""A service with the edits that people make: what is added, changed and deleted, line by line.

``tests/harbour`` has the files of its own: a feature with a table, a job and tests, and a part.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from tests import generator
from tests.updates import world

HARBOUR = generator.ROOT / "tests" / "harbour"
OWN = {path.relative_to(HARBOUR).as_posix(): path.read_text() for path in generator.files(HARBOUR)}
# The last commit in which `src/app` was flat. Services from then have the harbour of then.
LAST_FLAT = "3d4a951"
CONFLICT = re.compile(
    r"^<{7} before updating\n.*?^={7}\n(.*?)^>{7} after updating\n", re.MULTILINE | re.DOTALL
)
DELETED = (".vscode/settings.json", "benchmarks/compare.py")
EXAMPLE = (
    "src/app/items",
    "tests/items",
    "migrations/versions/items_0001.py",
    "migrations/versions/items_0002.py",
    "migrations/versions/items_0003.py",
)


@dataclass(frozen=True)
class Change:
    """Somebody put ``new`` where ``old`` stood."""

    path: str
    old: str
    new: str

    def fits(self, service: world.Service) -> bool:
        """Say whether it can be done here, and was not yet."""
        text = service.read(self.path) if service.has(self.path) else ""
        return text.count(self.old) == 1 and self.new not in text

    def do(self, service: world.Service) -> None:
        service.change(self.path, self.old, self.new)

    @property
    def added(self) -> Counter[str]:
        return Counter(self.new.splitlines()) - Counter(self.old.splitlines())

    @property
    def taken(self) -> Counter[str]:
        return Counter(self.old.splitlines()) - Counter(self.new.splitlines())


def _below(path: str, place: str, lines: str) -> Change:
    return Change(path, f"{place}\n", f"{place}\n{lines}")


def _above(path: str, place: str, lines: str) -> Change:
    return Change(path, place, f"{lines}{place}")


JOB = """
  docks:
    runs-on: ubuntu-latest
    timeout-minutes: 5
    steps:
      - run: echo "all docked"
"""
ROOM = " " * 12
CHANGES = (
    Change(
        "pyproject.toml",
        "    # Yours.\n]\n\n[project.scripts]",
        '    # Yours.\n    "sqids>=0.5",\n]\n\n[project.scripts]',
    ),
    _below(
        "src/app/api.py", "            # Your own routers here.", "            orders.router,\n"
    ),
    _above(
        "src/app/api.py",
        "from app.platform import jobs\n",
        "from app.orders import router as orders\n",
    ),
    Change("src/app/main.py", "from app import api, auth\n", "from app import api, auth, pier\n"),
    _below(
        "src/app/main.py",
        "    # Your own components here: modules with `setup(app, settings)`.",
        "    pier,\n",
    ),
    Change(
        "src/app/settings.py",
        "from app.platform.settings import",
        "from pydantic import Field\n\nfrom app.platform.settings import",
    ),
    _below(
        "src/app/settings.py",
        "    # Your own settings here.",
        '    harbour: str = Field("Bremen", description="Which harbour this is")\n',
    ),
    Change(
        "src/app/platform/settings/server.py",
        "    thread_pool_size: int = Field(\n        20,\n",
        "    thread_pool_size: int = Field(\n        30,\n",
    ),
    # The same where `src/app` is flat.
    _above("src/app/api.py", "    versions,\n)", "    orders,\n"),
    _below(
        "src/app/parts.py",
        "    # Your own parts here: modules with `install(app, settings)`.",
        "    pier,\n",
    ),
    _above("src/app/parts.py", "    redis,\n    tracing,\n)", "    pier,\n"),
    _below(
        "src/app/settings/__init__.py",
        "    # Your own settings here.",
        '    harbour: str = Field("Bremen", description="Which harbour this is")\n',
    ),
    Change(
        "src/app/settings/__init__.py",
        '    thread_pool_size: int = Field(20, ge=1, description="Threads for synchronous code")\n',
        '    thread_pool_size: int = Field(30, ge=1, description="Threads for synchronous code")\n',
    ),
    _below(
        "compose.yaml",
        "  # Your own services here.",
        "  mail:\n    image: axllent/mailpit:v1.29\n    networks: [default]\n",
    ),
    _below(
        "Makefile",
        "# Your own targets here.",
        "stock: ## Count what is there\n\tuv run app stock\n",
    ),
    _below(
        ".env.example",
        "# Your own variables here.",
        "# Which harbour this is\n#HARBOUR=Bremen\n",
    ),
    _below(".gitignore", ".DS_Store", "stock.csv\n"),
    _above("Dockerfile", "# Owned by root", "RUN install -d /var/lib/stock\n"),
    Change(
        "Dockerfile",
        "HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \\\n",
        "HEALTHCHECK --interval=20s --timeout=3s --start-period=30s \\\n",
    ),
    _below("README.md", "## Find your way", "\nStart with `src/app/orders/`.\n"),
    _below("docs/production.md", "## Yours to do", "\n- [x] The harbour master knows.\n"),
    Change(
        "src/app/items/jobs.py", "@job(retries=3, timeout=60)\n", "@job(retries=3, timeout=90)\n"
    ),
    Change(
        ".github/workflows/ci.yml",
        "    branches: [main]\n",
        "    branches: [main, tide]\n",
    ),
    Change(
        ".github/workflows/ci.yml",
        "go into `needs` below, too.\n",
        f"go into `needs` below, too.\n{JOB}",
    ),
    Change(
        ".github/workflows/ci.yml",
        "    needs: [check, audit, test, test-production-servers, image]",
        "    needs: [check, audit, test, test-production-servers, image, docks]",
    ),
    _below(
        ".gitlab-ci.yml",
        "# Your own jobs here.",
        '\ndocks:\n  extends: .python\n  script:\n    - echo "all docked"\n',
    ),
)
FILES = {change.path for change in CHANGES}


def own_when_flat() -> dict[str, str]:
    """The harbour's files of the last commit in which ``src/app`` was flat."""
    show = partial(world.git, generator.ROOT, "show")
    return {path: show(f"{LAST_FLAT}:tests/harbour/{path}") for path in OWN}


def edit(
    service: world.Service, *, example: bool = True, own: dict[str, str] = OWN
) -> list[Change]:
    """Make every edit that fits, and commit; return what was changed.

    Older versions lack some of the places, and so do other answers.
    """
    for path, text in own.items():
        service.write(path, text)
    for path in DELETED:
        (service.folder / path).unlink()
    if not example:
        delete_example(service)
    return [*redo(service)]


def adopt(service: world.Service) -> None:
    """Bring the harbour's own files to today's modules, as CHANGELOG says."""
    for path, text in OWN.items():
        service.write(path, text)


def redo(service: world.Service) -> Iterator[Change]:
    """Do what fits and was not done; somebody whose files are back would."""
    for change in [change for change in CHANGES if change.fits(service)]:
        change.do(service)
        yield change
    world.commit(service.folder, "the harbour's own")


def resolve(service: world.Service) -> list[str]:
    """Take the template's side of each conflict; its people make their edits again afterwards."""
    marked = ("grep", "--name-only", "--untracked", "--fixed-strings", "<<<<<<< before updating")
    paths = world.git(service.folder, *marked, check=False).splitlines()
    for path in paths:
        service.write(path, CONFLICT.sub(r"\1", service.read(path)))
    return paths


def delete_example(service: world.Service) -> None:
    """Do what its README says; not every version has each path."""
    for path in EXAMPLE:
        world.git(service.folder, "rm", "-r", "--quiet", "--ignore-unmatch", path)
    for line in (
        "            items.router,\n",
        "from app.items import router as items\n",
        "            app.items.router.router,\n",  # when src/app was flat
        "import app.items.router\n",
    ):
        service.write("src/app/api.py", service.read("src/app/api.py").replace(line, ""))
    assert "items" not in service.read("src/app/api.py")


def lost(
    service: world.Service,
    changes: list[Change],
    *,
    own: dict[str, str] = OWN,
    moved: dict[str, str] | None = None,
) -> list[str]:
    """What is missing: neither where it was, nor in a patch beside it, nor in the new place.

    ``moved``: old path -> new path, as the update lists them.
    """
    paths = sorted({change.path for change in changes})
    missing = [line for path in paths for line in _lost(service, path, changes, moved or {})]
    missing += [path for path, text in own.items() if service.read(path) != text]
    return missing + [f"{path} came back" for path in DELETED if service.has(path)]


def moved(said: str) -> dict[str, str]:
    """The moved files that an update lists."""
    return dict(re.findall(r"^    (\S+) -> (\S+)$", said, re.MULTILINE))


def _lost(
    service: world.Service, path: str, changes: list[Change], moved: dict[str, str]
) -> list[str]:
    here = [change for change in changes if change.path == path]
    places = (path, f"{path}.rej", moved.get(path, path))
    files = {each for each in places if service.has(each)}
    lines = "".join(map(service.read, sorted(files))).splitlines()
    kept = Counter(line.removeprefix("+") for line in lines)
    added = sum((change.added for change in here), Counter[str]())
    # A patch holds the line that was taken away, too.
    # Inside a conflict, the template's side may have such a line, too.
    outside = CONFLICT.sub("", "".join(map(service.read, sorted(files)))).splitlines()
    back = sum((change.taken for change in here), Counter[str]()) & Counter(outside)
    back = back if path not in moved else Counter()
    return [f"{path} lost: {line}" for line in added - kept] + [f"{path}: {line}" for line in back]
