"""A service with the edits that people make: what is added, changed and deleted, line by line."""

from tests.updates.world import Service, commit

# File, a place in it, and the lines that go behind the first line of that place.
ADDED = [
    ("pyproject.toml", "    # Yours.\n]\n\n[project.scripts]", '    "sqids>=0.5",\n'),
    ("src/app/api.py", "            # Your own routers here.\n", "            orders.router,\n"),
    ("src/app/api.py", "    jobs,\n    versions,\n)", "    orders,\n"),
    (
        "src/app/settings/__init__.py",
        "    # Your own settings here.\n",
        '    shop: str = Field("Harbour", description="What the shop is called")\n',
    ),
    (
        "compose.yaml",
        "  # Your own services here.\n",
        "  mail:\n    image: axllent/mailpit:v1.29\n    networks: [default]\n",
    ),
    (
        "Makefile",
        "# Your own targets here.\n",
        "stock: ## Count what is there\n\tuv run app stock\n",
    ),
    (".env.example", "# Your own variables here.\n", "# What the shop is called\n#SHOP=Harbour\n"),
    (".gitignore", ".DS_Store\n", "stock.csv\n"),
    ("Dockerfile", "WORKDIR /app\n# Owned", "RUN install -d /var/lib/stock\n"),
    ("README.md", "## Find your way\n", "\nStart with `src/app/orders.py`.\n"),
    ("docs/production.md", "## Yours to do\n", "\n- [x] The harbour master knows.\n"),
    ("src/app/items/jobs.py", "PAGE = 1000\n", "# The harbour master counts them.\n"),
    (".github/workflows/ci.yml", "name: CI\n", "\nrun-name: ${{ github.actor }} pushed\n"),
]
FILES = {path for path, _, _ in ADDED}
PART = '''"""Says which pier an answer came from."""

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from app.settings import Settings


class Pier:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def install(app: FastAPI, settings: Settings) -> None:
    app.add_middleware(Pier)
'''
ROUTER = '''"""What was ordered."""

from fastapi import APIRouter

from app.auth import CurrentUser

router = APIRouter(prefix="/orders", tags=["orders"])


@router.get("")
async def list_orders(user: CurrentUser) -> list[str]:
    """List the orders."""
    return []
'''
OWN = {
    "src/app/pier.py": PART,
    "src/app/orders.py": ROUTER,
}
DELETED = ("docs/adr/problems.md", ".vscode/settings.json")


Added = tuple[str, str, str]


def edit(service: Service) -> list[Added]:
    """Do all of it that fits, and commit; return what was added.

    Versions of the past lack some of the places where lines are put.
    """
    added = [each for each in ADDED if service.has(each[0]) and each[1] in service.read(each[0])]
    for path, place, lines in added:
        first = place.splitlines(keepends=True)[0] if place.count("\n") else ""
        text = service.read(path)
        service.write(path, text.replace(place, first + lines + place[len(first) :], 1))
    for path, text in OWN.items():
        service.write(path, text)
    parts = "src/app/parts.py"
    service.change(parts, "    # Your own parts", "    pier,\n    # Your own parts")
    service.change(parts, "    redis,\n    tracing,\n)", "    pier,\n    redis,\n    tracing,\n)")
    for path in DELETED:
        (service.folder / path).unlink()
    commit(service.folder, "the harbour's own")
    return added


def lost(service: Service, added: list[Added]) -> list[str]:
    """Return what is missing of it, neither where it was nor kept beside that."""
    missing = []
    for path, _, lines in added:
        kept = "".join(service.read(each) for each in (path, f"{path}.rej") if service.has(each))
        missing += [f"{path}: {line}" for line in lines.splitlines() if line not in kept]
    missing += [path for path, text in OWN.items() if service.read(path) != text]
    missing += [f"{path} came back" for path in DELETED if service.has(path)]
    parts = service.read("src/app/parts.py")
    return missing + ["src/app/parts.py: pier"] * (parts.count("    pier,\n") != 2)
