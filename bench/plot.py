"""A bar chart as SVG text: no library, white ground, readable without the page's style."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

WIDTH = 960
LEFT, RIGHT, TOP, ROW, BAR, BOTTOM = 350, 170, 84, 34, 20, 46
COLOURS = {"ours": "#2563eb", "peer": "#9ca3af", "ceiling": "#e5e7eb"}
INK, GRID = "#1f2937", "#e5e7eb"


@dataclass(frozen=True)
class Bar:
    """`value` with its least and greatest, `kind` for the colour, `note` beside the number."""

    label: str
    value: float
    least: float
    greatest: float
    kind: str
    note: str


def bar_chart(title: str, subtitle: str, unit: str, bars: list[Bar]) -> str:
    """Horizontal bars from zero, each with a line from its least to its greatest value."""
    step = _step(max(bar.greatest for bar in bars))
    end = step * -(-max(bar.greatest for bar in bars) // step)
    height = TOP + ROW * len(bars) + BOTTOM

    def x(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * value / end, 1)

    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    look = f'font-family="system-ui, sans-serif" font-size="14" fill="{INK}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {look} role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="20" y="32" font-size="19" font-weight="600">{escape(title)}</text>',
        f'<text x="20" y="56" fill="#4b5563">{escape(subtitle)}</text>',
    ]
    bottom = TOP + ROW * len(bars)
    for tick in range(round(end / step) + 1):
        at = x(tick * step)
        lines.append(f'<line x1="{at}" y1="{TOP - 6}" x2="{at}" y2="{bottom}" stroke="{GRID}"/>')
        number = f"{tick * step:,.0f}"
        lines.append(f'<text x="{at}" y="{bottom + 18}" font-size="12" text-anchor="middle">{number}</text>')
    centre = (LEFT + WIDTH - RIGHT) / 2
    lines.append(f'<text x="{centre}" y="{bottom + 38}" font-size="12" text-anchor="middle">{escape(unit)}</text>')
    for row, bar in enumerate(bars):
        top = TOP + ROW * row + (ROW - BAR) // 2
        middle = top + BAR / 2
        weight = ' font-weight="600"' if bar.kind == "ours" else ""
        colour = COLOURS[bar.kind]
        lines += [
            f'<text x="{LEFT - 10}" y="{middle + 5}" text-anchor="end"{weight}>{escape(bar.label)}</text>',
            f'<rect x="{LEFT}" y="{top}" width="{round(x(bar.value) - LEFT, 1)}" height="{BAR}" fill="{colour}"/>',
            f'<path d="M{x(bar.least)} {middle}H{x(bar.greatest)}" stroke="{INK}" stroke-width="2"/>',
            f'<text x="{x(bar.greatest) + 8}" y="{middle + 5}"{weight}>{escape(bar.note)}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _step(greatest: float) -> float:
    """A round distance of the grid's lines, at most nine of them."""
    step = 1.0
    while greatest / step > 8:
        step *= 2.5 if str(step).startswith("2") else 2
    return step
