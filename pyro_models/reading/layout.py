"""Where the nodes of a graph are drawn: rows by depth, frames nested, edges between nodes, never behind one."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

HEIGHT, ROW, PAD, GAP = 38, 100, 14, 22
"""Pixels: the height of a node, between rows, between nested frames, between nodes of a row."""
SWEEPS = 8
Point = tuple[float, float]


@dataclass
class Frame:
    """What is drawn in one frame: rows of its own nodes and bends of edges, and the frames within it."""

    rows: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    inner: dict[tuple[str, ...], "Frame"] = field(default_factory=dict)
    left: float = 0.0
    width: float = 0.0

    def span(self) -> tuple[int, int]:
        """Return the first and the last row."""
        rows = [*self.rows, *(row for frame in self.inner.values() for row in frame.span())]
        return min(rows), max(rows)


def half_width(node: Any) -> float:
    """Return half the width of a node, which holds its name."""
    return max(26.0, 4.1 * len(node.name) + 9)


def placed(graph: Any) -> tuple[dict[str, Point], dict[tuple[str, str], list[Point]], dict, Point]:
    """Lay out a graph in layers (Sugiyama et al., Methods for visual understanding of hierarchical systems, 1981).

    An edge over several rows takes a place of its own in each row between, in the frame that its ends share; so it
    passes behind no node and through no frame that it has nothing to do with. Frames within a frame stand side by
    side; its own nodes stand beside them in their rows, and over the whole width in others. Nodes and frames are
    ordered, and then moved, towards their neighbours.

    Returns:
        the middle of each node; the points of each edge; the sides of each frame; width and height.
    """
    frames_of = {node.key: node.frames for node in graph.nodes}
    halves = {node.key: half_width(node) for node in graph.nodes}
    rows = _rows(graph)
    root = Frame()
    chains: dict[tuple[str, str], list[str]] = {}
    for node in graph.nodes:
        _frame(root, node.frames).rows[rows[node.key]].append(node.key)
    for start, end in graph.edges:
        step = 1 if rows[end] > rows[start] else -1
        shared = [a for a, b in zip(frames_of[start], frames_of[end], strict=False) if a == b]
        bends = []
        for row in range(rows[start] + step, rows[end], step):
            bend = f"{start}>{end}@{row}"
            halves[bend] = 2.0
            _frame(root, tuple(shared)).rows[row].append(bend)
            bends.append(bend)
        chains[start, end] = [start, *bends, end]
    neighbours: dict[str, list[str]] = defaultdict(list)
    for chain in chains.values():
        for a, b in pairwise(chain):
            neighbours[a].append(b)
            neighbours[b].append(a)
    xs: dict[str, float] = {}
    for _ in range(SWEEPS):
        _measure(root, halves)
        _place(root, 0.0, xs, neighbours, halves)
        _order(root, xs, neighbours)
    ys = {key: 30.0 + PAD * 2 + ROW * row for key, row in rows.items()}
    at: dict[str, Point] = {key: (xs[key], ys[key]) for key in rows}
    routes: dict[tuple[str, str], list[Point]] = {}
    for (start, end), chain in chains.items():
        down = 1 if rows[end] >= rows[start] else -1
        shift = 8.0 if graph.edges[start, end] == "guide" and len(chain) == 2 else 0.0
        middle = [(xs[key], 30.0 + PAD * 2 + ROW * int(key.rsplit("@", 1)[1])) for key in chain[1:-1]]
        turns = [(x, y + side * down * HEIGHT / 2) for x, y in middle for side in (-1, 1)]
        out = -1 if rows[end] == rows[start] else down
        first = (at[start][0] + shift, at[start][1] + out * HEIGHT / 2)
        last = (at[end][0] + shift, at[end][1] - (down if rows[end] != rows[start] else 1) * (HEIGHT / 2 + 1))
        routes[start, end] = [first, *turns, last]
    boxes: dict[tuple[str, ...], tuple[float, float, float, float]] = {}
    _boxes(root, (), boxes)
    return at, routes, boxes, (root.width + 2 * PAD, max(ys.values(), default=0) + HEIGHT / 2 + 3 * PAD + 16)


def _rows(graph: Any) -> dict[str, int]:
    """Return the row of each node: below its parents, and near its children where it has no parents."""
    forward = [edge for edge, status in graph.edges.items() if status != "guide"]
    parents, children = defaultdict(list), defaultdict(list)
    for start, end in forward:
        parents[end].append(start)
        children[start].append(end)
    rows: dict[str, int] = {}
    left = [node.key for node in graph.nodes]
    while left:
        ready = [key for key in left if all(up in rows for up in parents[key])] or left[:1]
        rows |= {key: 1 + max((rows[up] for up in parents[key] if up in rows), default=-1) for key in ready}
        left = [key for key in left if key not in rows]
    for key in rows:
        if not parents[key] and children[key]:
            rows[key] = max(0, min(rows[child] for child in children[key]) - 1)
    return rows


def _frame(root: Frame, path: Sequence[str]) -> Frame:
    for i in range(len(path)):
        root = root.inner.setdefault(tuple(path[: i + 1]), Frame())
    return root


def _active(frame: Frame, row: int) -> list[Frame]:
    return [inner for inner in frame.inner.values() if inner.span()[0] <= row <= inner.span()[1]]


def _measure(frame: Frame, halves: Mapping[str, float]) -> None:
    """Set the widths of a frame and of those within it."""
    for inner in frame.inner.values():
        _measure(inner, halves)
    nodes = {row: sum(2 * halves[key] + GAP for key in keys) for row, keys in frame.rows.items()}
    beside = max((nodes[row] for row in nodes if _active(frame, row)), default=0.0)
    inside = sum(inner.width + PAD for inner in frame.inner.values())
    frame.width = max([beside + inside, *nodes.values()]) + 2 * PAD


def _place(frame: Frame, left: float, xs: dict[str, float], neighbours: Mapping, halves: Mapping[str, float]) -> None:
    """Set the x of each node, frames within first; a node stands near its neighbours, and apart from others."""
    frame.left = left
    right = left + frame.width
    inside = sum(inner.width + PAD for inner in frame.inner.values())
    x = right - PAD - inside
    for inner in frame.inner.values():
        _place(inner, x + PAD / 2, xs, neighbours, halves)
        x += inner.width + PAD
    for row, keys in frame.rows.items():
        end = right - PAD - (inside if _active(frame, row) else 0)
        lows = [left + PAD + GAP / 2 + halves[keys[0]]]
        for a, b in pairwise(keys):
            lows.append(lows[-1] + halves[a] + halves[b] + GAP)
        free, shift = max(end - GAP / 2 - halves[keys[-1]] - lows[-1], 0.0), 0.0
        for low, key in zip(lows, keys, strict=True):  # each as far right of its lowest x as the one before, or more
            near = [xs[other] for other in neighbours[key] if other in xs]
            wish = sum(near) / len(near) if near else (left + end) / 2
            shift = min(max(wish - low, shift), free)
            xs[key] = low + shift


def _order(frame: Frame, xs: Mapping[str, float], neighbours: Mapping) -> None:
    """Order the nodes of each row, and the frames within, by where their neighbours are."""

    def wish(keys: Iterable[str]) -> float:
        near = [xs[other] for key in keys for other in neighbours[key]] or [xs[key] for key in keys]
        return sum(near) / len(near)

    for keys in frame.rows.values():
        keys.sort(key=lambda key: wish([key]))
    frame.inner = dict(sorted(frame.inner.items(), key=lambda item: wish(_keys(item[1]))))
    for inner in frame.inner.values():
        _order(inner, xs, neighbours)


def _keys(frame: Frame) -> list[str]:
    own = [key for keys in frame.rows.values() for key in keys]
    return own + [key for inner in frame.inner.values() for key in _keys(inner)]


def _boxes(frame: Frame, path: tuple[str, ...], boxes: dict) -> int:
    """Set the sides of the frames within, and return how deep they nest."""
    deepest = 0
    for inner_path, inner in frame.inner.items():
        top, bottom = inner.span()
        boxes[inner_path] = (0.0, 0.0, 0.0, 0.0)  # outer ones are drawn first
        depth = _boxes(inner, inner_path, boxes)
        y = 30 + PAD * 2
        boxes[inner_path] = (
            inner.left,
            y + ROW * top - HEIGHT / 2 - PAD / 2 - 6 * depth,
            inner.left + inner.width,
            y + ROW * bottom + HEIGHT / 2 + PAD + 4 + 16 * depth,
        )
        deepest = max(deepest, depth + 1)
    return deepest
