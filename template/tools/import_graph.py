"""The import graph of ``src/app``: code lines by package, cycles, and imports that go up a level.

    uv run python tools/import_graph.py [PAGE]

Packages are those of the platform, features, and the modules beside them. Prints a table, and
writes it with a diagram to PAGE, a Markdown file. Exits with 1 if there is a cycle or an import
that goes up. The levels are those of ``.importlinter``.
"""

import ast
import configparser
import sys
import tokenize
from collections import Counter
from pathlib import Path

import grimp

SRC = Path("src")
FEATURES = "features"
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}

Arrow = tuple[str, str]  # between packages: the importer, the imported


def levels() -> dict[str, int]:
    """The height of each package that ``.importlinter`` names, and that of all ``FEATURES``."""
    config = configparser.ConfigParser()
    config.read(".importlinter")
    entry_points, platform = (
        config[f"importlinter:contract:{contract}"]["layers"].strip().split("\n")
        for contract in ("entry-points", "levels")
    )
    above = entry_points.index("auth")
    packages = [*entry_points[:above], FEATURES, *entry_points[above:-1]]
    packages += [*(f"platform.{name}" for name in platform), "platform"]
    return {
        name.strip(" ()"): height
        for height, level in enumerate(reversed(packages))
        for name in level.split("|")
    }


LEVELS = levels()


def package(module: str) -> str:
    """``app.platform.http.cors`` -> ``platform.http``; ``app.orders.models`` -> ``orders``."""
    path = module.split(".")[1:]
    return ".".join(path[: 2 if path[0] == "platform" else 1])


def level(package: str) -> int:
    return LEVELS.get(package, LEVELS[FEATURES])


def from_the_top(packages: set[str]) -> list[str]:
    return sorted(packages, key=lambda package: (-level(package), package))


def code_lines(module: str) -> int:
    """How many lines of a module hold code: no blank lines, comments or docstrings."""
    path = SRC.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    lines: set[int] = set()
    with tokenize.open(file) as source:
        for token in tokenize.generate_tokens(source.readline):
            if token.type not in NO_CODE and token.string:
                lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(lines)


def cycles(graph: grimp.ImportGraph) -> set[frozenset[str]]:
    """The sets of modules that import each other in a circle."""
    circles = (
        {module} | (graph.find_upstream_modules(module) & graph.find_downstream_modules(module))
        for module in graph.modules
    )
    return {frozenset(circle) for circle in circles if len(circle) > 1}


def reduced(arrows: set[Arrow]) -> set[Arrow]:
    """``arrows`` without those that a longer way makes, too: few enough for a diagram."""
    reach = set(arrows)
    for middle in {package for arrow in arrows for package in arrow}:
        reach |= {(a, d) for a, b in reach if b == middle for c, d in reach if c == middle}
    detours = {(a, c) for a, b in arrows for x, c in reach if x == b}
    return arrows - detours


def main() -> int:
    sys.path.insert(0, str(SRC))
    graph = grimp.build_graph("app", cache_dir=None)
    modules = graph.modules - {"app"}  # `app/__init__.py` has no code
    lines: Counter[str] = Counter()
    for module in modules:
        lines[package(module)] += code_lines(module)
    arrows: Counter[Arrow] = Counter(
        (package(module), package(other))
        for module in modules
        for other in graph.find_modules_directly_imported_by(module) & modules
        if package(module) != package(other)
    )
    up = {(a, b) for a, b in arrows if level(a) <= level(b)}
    circles = cycles(graph)

    table = ["| package | modules | code lines | imports |", "|---|---:|---:|---|"]
    for name in from_the_top(set(lines)):
        count = sum(package(module) == name for module in modules)
        imported = ", ".join(from_the_top({b for a, b in arrows if a == name}))
        table.append(f"| {name} | {count} | {lines[name]} | {imported} |")
    platform = sum(lines[name] for name in lines if name.startswith("platform"))
    total = lines.total()
    summary = (
        f"{total} code lines: {total - platform} yours, {platform} of the platform. "
        f"{len(circles)} cycles, {sum(arrows[arrow] for arrow in up)} imports that go up."
    )
    faults = [f"a cycle: {', '.join(sorted(circle))}" for circle in circles]
    faults += [f"up: {a} imports {b}" for a, b in sorted(up)]
    print("\n".join([*table, "", summary, *faults]))
    for page in sys.argv[1:]:
        drawn = [f"    {a} --> {b}" for a, b in sorted(reduced(set(arrows)) | up)]
        diagram = ["```mermaid", "flowchart TD", *drawn, "```"]
        about = "Made by `make graph`. The diagram leaves out arrows that follow from others."
        text = ["# Import graph", "", about, "", summary, "", *diagram, "", *table, ""]
        Path(page).write_text("\n".join(text), encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
