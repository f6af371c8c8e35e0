"""Small pictures as SVG, in the colours of the page: curves over the epochs, histograms of replicates."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 340, 200, 54, 24, 12
LEFT_OUT = 0.1  # share of a run at whose beginning curves may leave the picture


class Curve(NamedTuple):
    """A line over the epochs.

    Attributes:
        name: in the legend.
        x, y: the epochs, and a value for each.
        spread: half the height of a band around it, a number for each; None draws none.
        colour: the number of its colour.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] | None = None
    colour: int = 0


def chart(title: str, curves: Sequence[Curve]) -> str:
    """Return curves over the epochs, with axes; the legend is the page's."""
    from matplotlib.ticker import MaxNLocator

    last, first = max(max(each.x) for each in curves), min(min(each.x) for each in curves)
    later = [
        value + sign * spread
        for each in curves
        for x, value, spread in zip(each.x, each.y, each.spread or [0.0] * len(each.x), strict=True)
        if x >= first + LEFT_OUT * (last - first)
        for sign in (-1, 1)
    ]
    margin = 0.06 * (max(later) - min(later)) or 0.5 * abs(later[0]) or 0.5
    low, high = min(later) - margin, max(later) + margin
    last = max(last, first + 1)

    def point(x: float, y: float) -> str:
        across = LEFT + (x - first) / (last - first) * (WIDTH - LEFT - EDGE)
        up = HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - BOTTOM - EDGE)
        return f"{across:.1f},{min(max(up, -HEIGHT), 2 * HEIGHT):.1f}"

    parts = []
    for tick in MaxNLocator(4).tick_values(low, high):
        if low <= tick <= high:
            y = point(first, tick).split(",")[1]
            parts.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - EDGE}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y}" text-anchor="end" dy=".32em">{tick:.5g}</text>')
    for tick in MaxNLocator(4, integer=True).tick_values(first, last):
        if first <= tick <= last:
            x = point(tick, low).split(",")[0]
            parts.append(f'<text x="{x}" y="{HEIGHT - 8}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{LEFT - 6}" y="{HEIGHT - 8}" text-anchor="end">epoch</text>')
    for each in curves:
        if each.spread:
            around = list(zip(each.x, each.y, each.spread, strict=True))
            edge = [point(x, y + s) for x, y, s in around] + [point(x, y - s) for x, y, s in reversed(around)]
            parts.append(f'<polygon class="s{each.colour}" points="{" ".join(edge)}"/>')
        line = " ".join(point(x, y) for x, y in zip(each.x, each.y, strict=True))
        parts.append(f'<polyline class="s{each.colour}" points="{line}"><title>{escape(each.name)}</title></polyline>')
        if len(each.x) == 1:
            x, y = line.split(",")
            parts.append(f'<circle class="s{each.colour}" cx="{x}" cy="{y}" r="3"/>')
    says = "; ".join(f"{each.name} from {each.y[0]:.5g} to {each.y[-1]:.5g}" for each in curves)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {says}")}">'
        f"{''.join(parts)}</svg>"
    )


def legend(curves: Sequence[Curve]) -> str:
    """Return the legend of charts that share their curves' names."""
    items = (f'<li><span class="s{each.colour}"></span>{escape(each.name)}</li>' for each in curves)
    return f'<ul class="legend">{"".join(items)}</ul>'


def histogram(counts: Sequence[int], low: float, high: float, observed: float, says: str) -> str:
    """Return bars of replicates between two values, and a line at the data's."""
    width, height, tallest = 120, 30, max(counts)
    step = width / len(counts)
    bars = "".join(
        f"M{k * step:.1f} {height}v{-(height - 2) * count / tallest:.1f}h{step:.1f}V{height}z"
        for k, count in enumerate(counts)
        if count
    )
    at = 1 + (width - 2) * (observed - low) / (high - low)
    return (
        f'<svg class="histogram" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(says)}">'
        f'<path class="bars" d="{bars}"/><path class="data" d="M{at:.1f} 0V{height}"/></svg>'
    )
