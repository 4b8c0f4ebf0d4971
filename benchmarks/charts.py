"""Horizontal bars with quartiles, written as SVG by hand: readable at a glance, on light and dark pages alike."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from measure import Kind, number

if TYPE_CHECKING:
    from collections.abc import Callable

    from report import Bar, Chart

WIDTH, ROW, TOP, BOTTOM = 760, 28, 64, 40
LABELS, BARS = 250, 380
COLORS = {
    Kind.OURS: "#2563eb",
    Kind.OURS_TOO: "#93c5fd",
    Kind.IDEAL: "#16a34a",
    Kind.FLOOR: "#a3a3a3",
    Kind.PEER: "#ea8c0c",
    Kind.NEAREST: "#f5c878",
}
TEXT = 'font-family="-apple-system,Segoe UI,Helvetica,Arial,sans-serif"'


def svg(chart: Chart) -> str:
    """Draw a chart."""
    bars = [bar for bar in chart.bars if not math.isnan(bar.series.median)]
    height = TOP + ROW * len(bars) + BOTTOM
    scale = scale_of([bar.series.quartiles[1] for bar in bars], chart.logarithmic)
    unit = f"{chart.unit}, logarithmic" if chart.logarithmic else chart.unit
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(chart.title, quote=True)}" {TEXT} font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff" stroke="#d4d4d4"/>',
        f'<text x="16" y="30" font-size="16" font-weight="600" fill="#171717">{escape(chart.title)}</text>',
        f'<text x="16" y="50" fill="#525252">{escape(unit)}</text>',
    ]
    for index, bar in enumerate(bars):
        parts += row(bar, TOP + ROW * index, scale)
    parts += legend(bars, height - 14)
    return "\n".join([*parts, "</svg>"]) + "\n"


def scale_of(values: list[float], logarithmic: bool) -> Callable[[float], float]:
    """Values to pixels: from nothing, or from a decade below the smallest."""
    positive = [value for value in values if value > 0]
    most = max(positive, default=1.0)
    if not logarithmic:
        return lambda value: max(0.0, value) / most * BARS
    least = min(positive, default=1.0) / 3
    decades = math.log10(most / least)
    return lambda value: 0.0 if value <= least else math.log10(value / least) / decades * BARS


def row(bar: Bar, top: int, scale: Callable[[float], float]) -> list[str]:
    """A label, a bar, its quartiles and its value."""
    middle, length = top + ROW // 2, scale(bar.series.median)
    low, high = map(scale, bar.series.quartiles)
    bold = ' font-weight="600"' if bar.kind is Kind.OURS else ""
    return [
        f'<text x="{LABELS - 10}" y="{middle + 4}" text-anchor="end" fill="#171717"{bold}>{escape(bar.label)}</text>',
        f'<rect x="{LABELS}" y="{top + 4}" width="{max(length, 1):.1f}" height="{ROW - 8}" rx="2" '
        f'fill="{COLORS[bar.kind]}"/>',
        f'<line x1="{LABELS + low:.1f}" x2="{LABELS + high:.1f}" y1="{middle}" y2="{middle}" '
        'stroke="#171717" stroke-opacity="0.55"/>',
        f'<text x="{LABELS + max(length, high) + 8:.1f}" y="{middle + 4}" fill="#171717"{bold}>'
        f"{number(bar.series.median)}</text>",
    ]


def legend(bars: list[Bar], y: int) -> list[str]:
    """What the colors mean."""
    parts, x = [], 16
    for kind in Kind:
        if any(bar.kind is kind for bar in bars):
            parts.append(
                f'<rect x="{x}" y="{y - 10}" width="11" height="11" rx="2" fill="{COLORS[kind]}"/>'
            )
            parts.append(
                f'<text x="{x + 16}" y="{y}" font-size="12" fill="#525252">{kind.value}</text>'
            )
            x += 32 + 7 * len(kind.value)
    return parts
