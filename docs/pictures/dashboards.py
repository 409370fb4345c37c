"""Draws the dashboards from what a real Prometheus answered: `make pictures`.

Renders a service with the most options, runs `tests/live/prometheus/through_dashboards.py` in it,
and draws the answers about its last minutes as SVG, each panel where Grafana would show it.
"""

import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from tests import generator, suite

HERE = Path(__file__).parent
INSIDE = generator.ROOT / "tests/live/prometheus/through_dashboards.py"
GIVEN = {"preset": "everything", "queue": "postgres", "tracing": "tempo"}
SECONDS = 120

COLUMN, ROW, GAP = 52, 34, 4  # pixels of a cell of Grafana's grid
PLOT = {"left": 62, "right": 12, "top": 30, "axis": 16, "legend": 17}
LEGENDS = 4  # lines of it; the others are counted
INK, FAINT, LINE, PANEL, PAGE = "#d8dee9", "#8b93a5", "#2c323d", "#20242e", "#14171d"
COLOURS = (
    "#7fd1de", "#a3d98b", "#ebcb8b", "#ff7b8a", "#c79be0", "#81a1f1", "#f2a26b", "#d8dee9",
    "#5fb3a1", "#e59ac1", "#9fb8c8", "#c5d36b",
)  # fmt: skip

Json = dict[str, Any]
Points = list[tuple[float, float]]
Series = dict[str, Points]


def amount(value: float, unit: str) -> str:
    """The value as Grafana writes it."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %" if abs(value) < 10 else f"{value * 100:,.0f} %"
    if unit == "s":
        for factor, name in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
            if abs(value) * factor >= 1 or factor == 1e6 or not value:
                return f"{value * factor:.3g} {name}"
    endings = {"reqps": " req/s", "ops": " /s", "Bps": "B/s", "decbytes": "B"}
    for prefix in ("", "k", "M", "G"):
        if abs(value) < 1000 or prefix == "G":
            break
        value /= 1000
    space = " " if prefix or unit in ("Bps", "decbytes") else ""
    return f"{value:.3g}{space}{prefix}{endings.get(unit, '')}".strip()


def legend(target: Json, labels: dict[str, str]) -> str:
    text: str = target["legendFormat"]
    for name in {**labels, "instance": "", "route": "", "method": ""}:
        text = text.replace(f"{{{{{name}}}}}", labels.get(name, ""))
    return text.strip() or "value"


def series_of(panel: Json, answers: Json, board: str) -> Series:
    """The points of each series that has any, by its legend."""
    found: Series = {}
    for target in panel.get("targets", []):
        for each in answers.get(f"{board}: {panel['title']} {target['refId']}", []):
            points = [(float(at), float(value)) for at, value in each["values"]]
            points = [point for point in points if math.isfinite(point[1])]
            if points:
                found[legend(target, each["metric"])] = points
    return found


def draw(board: Json, answers: Json, name: str) -> str:
    """The dashboard as SVG, without what Loki would show."""
    panels = [panel for panel in board["panels"] if panel["type"] != "logs"]
    if any(panel["type"] == "logs" for panel in board["panels"]):
        logs = next(panel for panel in board["panels"] if panel["type"] == "logs")
        above = logs["gridPos"]["y"] - 1
        panels = [p for p in panels if (p["type"], p["gridPos"]["y"]) != ("row", above)]
        panels = [p | {"gridPos": moved(p["gridPos"], above, 10)} for p in panels]
    top = 44
    width = 24 * COLUMN + 2 * GAP
    height = top + ROW * max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, Helvetica, Arial, sans-serif" font-size="12" fill="{INK}">',
        f"<title>{escape(board['title'])}</title>",
        f'<rect width="100%" height="100%" rx="6" fill="{PAGE}"/>',
        f'<text x="14" y="28" font-size="18" font-weight="600">{escape(board["title"])}</text>',
        f'<text x="{width - 14}" y="28" text-anchor="end" fill="{FAINT}">'
        f"{escape(board['description'])}</text>",
    ]
    for panel in panels:
        grid = panel["gridPos"]
        x, y = GAP + grid["x"] * COLUMN, top + grid["y"] * ROW
        w, h = grid["w"] * COLUMN - GAP, grid["h"] * ROW - GAP
        parts.append(f'<svg x="{x}" y="{y}" width="{w}" height="{h}">')
        parts.extend(_panel(panel, series_of(panel, answers, name), w, h))
        parts.append("</svg>")
    return "\n".join([*parts, "</svg>", ""])


def moved(grid: dict[str, int], below: int, by: int) -> dict[str, int]:
    return grid | {"y": grid["y"] - by} if grid["y"] > below else grid


def _panel(panel: Json, series: Series, w: int, h: int) -> Iterator[str]:
    if panel["type"] == "row":
        yield f'<text x="8" y="22" font-size="14" font-weight="600">{escape(panel["title"])}</text>'
        return
    yield f'<rect width="{w}" height="{h}" rx="3" fill="{PANEL}" stroke="{LINE}"/>'
    yield f'<text x="10" y="19" font-weight="600">{escape(panel["title"])}</text>'
    if not series:
        yield f'<text x="{w / 2}" y="{h / 2}" text-anchor="middle" fill="{FAINT}">None.</text>'
    elif panel["type"] == "stat":
        yield from _stat(panel, series, w, h)
    elif panel["type"] == "heatmap":
        yield from _heatmap(series, w, h)
    else:
        yield from _lines(panel, series, w, h)


def _stat(panel: Json, series: Series, w: int, h: int) -> Iterator[str]:
    field = panel["fieldConfig"]["defaults"]
    shown = list(series.items())[:3]
    for number, (name, points) in enumerate(shown):
        x, size = w * (number + 0.5) / len(shown), 36 - 6 * len(shown)
        value = points[-1][1]
        colour = COLOURS[3] if value < 0 and "thresholds" in field else COLOURS[1]
        yield (
            f'<text x="{x:.0f}" y="{h / 2 + 20:.0f}" text-anchor="middle" font-size="{size}" '
            f'font-weight="600" fill="{colour}">{escape(amount(value, field["unit"]))}</text>'
        )
        if len(series) > 1 or "{{" in panel["targets"][0]["legendFormat"]:
            yield (
                f'<text x="{x:.0f}" y="{h - 12}" text-anchor="middle" fill="{FAINT}" '
                f'font-size="11">{escape(name)}</text>'
            )


def _axes(h: int, lines: int) -> tuple[float, float]:
    """The top and the bottom of the plot."""
    return PLOT["top"], h - PLOT["axis"] - PLOT["legend"] * lines - 6


def _frame(ticks: list[tuple[float, str]], w: int, bottom: float) -> Iterator[str]:
    for y, text in ticks:
        right = w - PLOT["right"]
        yield f'<path d="M{PLOT["left"]} {y:.1f}H{right}" stroke="{LINE}"/>'
        yield (
            f'<text x="{PLOT["left"] - 6}" y="{y + 4:.1f}" text-anchor="end" fill="{FAINT}" '
            f'font-size="10">{escape(text)}</text>'
        )
    for share, text in ((0.0, f"-{SECONDS // 60} min"), (1.0, "now")):
        x = PLOT["left"] + share * (w - PLOT["left"] - PLOT["right"])
        anchor = "end" if share else "start"
        yield (
            f'<text x="{x:.0f}" y="{bottom + 13:.0f}" text-anchor="{anchor}" fill="{FAINT}" '
            f'font-size="10">{text}</text>'
        )


def _nice(top: float) -> float:
    """The step between lines of the grid: 1, 2 or 5 of some power of ten."""
    exact = top / 3
    power = 10.0 ** math.floor(math.log10(exact))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= exact)


def _lines(panel: Json, series: Series, w: int, h: int) -> Iterator[str]:
    field = panel["fieldConfig"]["defaults"]
    ordered = sorted(series.items(), key=lambda each: -each[1][-1][1])[: len(COLOURS)]
    rows = _legend_rows(ordered, w)
    top, bottom = _axes(h, len(rows))
    shown = [value for points in series.values() for _, value in points]
    highest = field.get("max") or max(0, *shown) or 1
    lowest = field.get("min", min(0, *shown))
    step = _nice(highest - lowest)
    highest = field.get("max") or step * math.ceil(highest / step)
    lowest = step * math.floor(lowest / step)
    values = [lowest + step * n for n in range(int((highest - lowest) / step + 1e-9) + 1)]
    texts = field.get("mappings", [{}])[0].get("options", {})
    if texts:
        values = [float(value) for value in texts]

    def tick(value: float) -> str:
        given = texts.get(f"{value:g}", {}).get("text")
        return str(given or amount(value, field["unit"]))

    def height(value: float) -> float:
        return bottom - (bottom - top) * min((value - lowest) / (highest - lowest), 1)

    yield from _frame([(height(value), tick(value)) for value in values], w, bottom)
    ends = [points[-1][0] for points in series.values()]
    end, wide = max(ends), w - PLOT["left"] - PLOT["right"]
    for number, (_, points) in enumerate(ordered):
        at = [(PLOT["left"] + wide * (1 - (end - t) / SECONDS), height(v)) for t, v in points]
        path = "L".join(f"{x:.0f} {y:.1f}" for x, y in at)
        colour = COLOURS[number]
        yield f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    y = bottom + PLOT["axis"] + 12
    for row in rows:
        x = 12.0
        for number, text in row:
            if number is not None:
                colour = COLOURS[number]
                yield f'<rect x="{x:.0f}" y="{y - 6:.0f}" width="9" height="3" fill="{colour}"/>'
            yield f'<text x="{x + 13:.0f}" y="{y:.0f}" font-size="11">{escape(text)}</text>'
            x += _wide(text)
        y += PLOT["legend"]


def _wide(text: str) -> float:
    return 26 + 6.1 * len(text)


def _legend_rows(ordered: list[tuple[str, Points]], w: int) -> list[list[tuple[int | None, str]]]:
    rows: list[list[tuple[int | None, str]]] = [[]]
    used = 0.0
    for number, (name, _) in enumerate(ordered):
        text = name if len(name) < 60 else f"{name[:59]}…"
        if rows[-1] and used + _wide(text) > w - 24:
            if len(rows) == LEGENDS:
                rows[-1][-1] = (None, f"and {len(ordered) - number + 1} more")
                break
            rows.append([])
            used = 0
        rows[-1].append((number, text))
        used += _wide(text)
    return rows


def _heatmap(series: Series, w: int, h: int) -> Iterator[str]:
    """How many requests fell into each bucket of durations, over time."""
    bounds = sorted(series, key=float)
    top, bottom = _axes(h, 0)
    tall = (bottom - top) / len(bounds)
    wide = w - PLOT["left"] - PLOT["right"]
    counts: dict[tuple[float, int], float] = {}
    below: dict[float, float] = {}
    for number, bound in enumerate(bounds):
        for at, value in series[bound]:
            counts[at, number] = max(0.0, value - below.get(at, 0.0))
            below[at] = value
    most = max(counts.values()) or 1
    times = sorted({at for at, _ in counts})
    every = max(1, len(times) // 45)
    for at in times[::every]:
        for number in range(len(bounds)):
            if share := counts.get((at, number), 0) / most:
                x = PLOT["left"] + wide * (1 - (times[-1] - at) / SECONDS)
                cell = wide * every * (times[1] - times[0]) / SECONDS
                yield (
                    f'<rect x="{x - cell:.1f}" y="{bottom - tall * (number + 1):.1f}" '
                    f'width="{cell:.1f}" height="{tall - 1:.1f}" fill="{COLOURS[2]}" '
                    f'opacity="{0.1 + 0.9 * share:.2f}"/>'
                )
    names = [
        (bottom - tall * (n + 0.5), amount(float(b), "s"))
        for n, b in enumerate(bounds)
        if n % 3 == 0 and math.isfinite(float(b))
    ]
    yield from _frame(names, w, bottom)


def recorded(folder: Path) -> Json:
    """The dashboards of a service, and Prometheus's answers about its last minutes."""
    template = generator.copy_of_template(folder / "template")
    service = generator.render(template, folder / "service", **GIVEN)
    shutil.copy(INSIDE, service / "tests" / "test_through_dashboards.py")
    drawn = {"DRAWN_FROM": str(folder / "answers.json"), "DRAWN_SECONDS": str(SECONDS)}
    suite.run(service, "tests/test_through_dashboards.py", options="-q -n 0", **drawn)
    found: Json = json.loads((folder / "answers.json").read_text())
    return found


def main() -> None:
    """Draw; ``ANSWERS`` names a file of an earlier run, to draw from it again."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        earlier = os.environ.get("ANSWERS")
        found = json.loads(Path(earlier).read_text()) if earlier else recorded(Path(temporary))
    for name, board in found["dashboards"].items():
        (HERE / f"{name}.svg").write_text(draw(board, found["answers"], name), encoding="utf-8")
    print(f"the dashboards are drawn, in {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
