"""A service with the edits that people make: what is added, changed and deleted, line by line."""

from tests.updates.world import Service, commit

# Lines that are put behind a line of the template, by file.
ADDED = {
    "pyproject.toml": ("    # Yours.\n]\n\n[project.scripts]", '    "sqids>=0.5",\n'),
    "src/app/api.py": ("            # Your own routers here.\n", "            orders.router,\n"),
    "src/app/settings/__init__.py": (
        "    # Your own settings here.\n",
        '    shop: str = Field("Harbour", description="What the shop is called")\n',
    ),
    "compose.yaml": (
        "  # Your own services here.\n",
        "  mail:\n    image: axllent/mailpit:v1.29\n    networks: [default]\n",
    ),
    "Makefile": (
        "# Your own targets here.\n",
        "stock: ## Count what is there\n\tuv run app stock\n",
    ),
    ".env.example": ("# Your own variables here.\n", "# What the shop is called\n#SHOP=Harbour\n"),
    ".gitignore": (".DS_Store\n", "stock.csv\n"),
    "Dockerfile": ("WORKDIR /app\n# Owned", "RUN install -d /var/lib/stock\n"),
    "README.md": ("## Find your way\n", "\nStart with `src/app/orders.py`.\n"),
    "docs/production.md": ("## Yours to do\n", "\n- [x] The harbour master knows.\n"),
    "src/app/items/jobs.py": ("PAGE = 1000\n", "# The harbour master counts them.\n"),
    ".github/workflows/ci.yml": ("name: CI\n", "\nrun-name: ${{ github.actor }} pushed\n"),
}
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


def edit(service: Service) -> None:
    """Do all of it, and commit."""
    for path, (place, lines) in ADDED.items():
        text = service.read(path)
        assert place in text, (path, place)
        first = place.splitlines(keepends=True)[0] if place.count("\n") else ""
        service.write(path, text.replace(place, first + lines + place[len(first) :], 1))
    for path, text in OWN.items():
        service.write(path, text)
    service.change("src/app/parts.py", "    # Your own parts", "    pier,\n    # Your own parts")
    service.change(
        "src/app/parts.py", "    redis,\n    tracing,\n)", "    pier,\n    redis,\n    tracing,\n)"
    )
    service.change(
        "src/app/api.py", "    jobs,\n    versions,", "    jobs,\n    orders,\n    versions,"
    )
    for path in DELETED:
        (service.folder / path).unlink()
    commit(service.folder, "the harbour's own")


def lost(service: Service) -> list[str]:
    """Return what is missing of it, neither where it was nor kept beside that."""
    missing = []
    for path, (_, lines) in ADDED.items():
        kept = "".join(service.read(each) for each in (path, f"{path}.rej") if service.has(each))
        missing += [f"{path}: {line}" for line in lines.splitlines() if line not in kept]
    missing += [path for path, text in OWN.items() if service.read(path) != text]
    missing += [f"{path} came back" for path in DELETED if service.has(path)]
    parts = service.read("src/app/parts.py")
    return missing + ["src/app/parts.py: pier"] * (parts.count("    pier,\n") != 2)
