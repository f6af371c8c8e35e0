"""The graph of programs in three forms: Graphviz's DOT, Mermaid, and SVG that needs no other program."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from itertools import groupby, takewhile

from pyro_models.reading.factors import Program

ROW, PAD = 110, 12
"""Pixels between rows of nodes, and between the frames of nested plates."""

MERMAID = {"observed": '{0}(("{1}")):::given', "input": '{0}["{1}"]:::given'}
MERMAID |= {"deterministic": '{0}(["{1}"]):::deterministic', "factor": '{0}{{{{"{1}"}}}}'}
DOT = {"observed": "style=filled", "deterministic": "style=dashed", "factor": "shape=hexagon", "input": "shape=box"}
CLASSES = "classDef given fill:#d9d9d9\nclassDef deterministic stroke-dasharray: 4"
ARROW = (
    '<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0 8 4 0 8z" fill="#444"/></marker>'
)


@dataclass(frozen=True)
class Node:
    """A site or an input of a program.

    Attributes:
        key: an identifier that no other node has.
        name, kind: as in `Factor`.
        frames: what is drawn around it, the outermost first: the program's title, then plates with their sizes.
        parents: the keys of its parents.
    """

    key: str
    name: str
    kind: str
    frames: tuple[str, ...]
    parents: tuple[str, ...]


def nodes_of(programs: Mapping[str, Program]) -> list[Node]:
    """Return the nodes of programs in the order in which forms list them: those that share a frame stand together."""
    nodes: list[Node] = []
    for title, program in programs.items():
        keys = {name: f"n{len(nodes) + i}" for i, name in enumerate(program.factors)}
        for name, factor in program.factors.items():
            frames = (title, *(f"{plate.name} ({plate.size})" for plate in factor.plates))
            nodes.append(
                Node(keys[name], name.replace('"', "'"), factor.kind, frames, tuple(keys[up] for up in factor.parents))
            )
    outer = [node.frames[:depth] for node in nodes for depth in range(len(node.frames) + 1)]
    return sorted(nodes, key=lambda node: [outer.index(node.frames[:depth]) for depth in range(len(node.frames) + 1)])


def mermaid(programs: Mapping[str, Program]) -> str:
    """Write the graph as a Mermaid flowchart."""
    nodes = nodes_of(programs)
    drawn = {node: MERMAID.get(node.kind, '{0}(("{1}"))').format(node.key, node.name) for node in nodes}
    edges = [f"{up} --> {node.key}" for node in nodes for up in node.parents]
    return "\n".join(["flowchart TD", *_nested(drawn, 'subgraph f{0}["{1}"]', "end"), *edges, CLASSES])


def dot(programs: Mapping[str, Program]) -> str:
    """Write the graph for Graphviz."""
    nodes = nodes_of(programs)
    drawn = {node: f'{node.key} [label="{node.name}" {DOT.get(node.kind, "")}]' for node in nodes}
    edges = [f"{up} -> {node.key}" for node in nodes for up in node.parents]
    return "\n".join(["digraph story {", *_nested(drawn, 'subgraph cluster_{0} {{ label="{1}"', "}"), *edges, "}"])


def _nested(drawn: Mapping[Node, str], start: str, end: str) -> list[str]:
    """Return the lines of the nodes between those that open and close their frames."""
    lines: list[str] = []
    within: tuple[str, ...] = ()
    for node, line in drawn.items():
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(within, node.frames, strict=False)))
        lines += [end] * (len(within) - shared)
        lines += [start.format(len(lines) + i, frame) for i, frame in enumerate(node.frames[shared:])] + [line]
        within = node.frames
    return lines + [end] * len(within)


def svg(programs: Mapping[str, Program]) -> str:
    """Draw the graph: each node below its parents, each frame in columns of its own."""
    nodes = nodes_of(programs)
    rows: dict[str, int] = {}
    for node in sorted(nodes, key=lambda node: int(node.key[1:])):  # in the order of the programs: parents come first
        rows[node.key] = 1 + max((rows[up] for up in node.parents), default=-1)
    half = max([28.0, *(4.2 * len(node.name) + 8 for node in nodes)])
    depth = max((len(node.frames) for node in nodes), default=0)
    cell, top, left = 2 * half + 2 * PAD * (depth + 1), 45 + PAD * depth, 0.0
    at: dict[str, tuple[float, float]] = {}
    for _, group in groupby(nodes, key=lambda node: node.frames):
        members = list(group)
        levels = [[node.key for node in members if rows[node.key] == row] for row in range(max(rows.values()) + 1)]
        width = cell * max(map(len, levels))
        for row, level in enumerate(levels):
            at |= {key: (left + width * (i + 0.5) / len(level), top + ROW * row) for i, key in enumerate(level)}
        left += width
    drawn = []
    for frame in dict.fromkeys(node.frames[: n + 1] for node in nodes for n in range(len(node.frames))):
        xs, ys = zip(*(at[node.key] for node in nodes if node.frames[: len(frame)] == frame), strict=True)
        room = PAD * (depth - len(frame) + 1)
        x, right = min(xs) - half - room, max(xs) + half + room
        y, low = min(ys) - 24 - room, max(ys) + 24 + 1.4 * room
        drawn.append(_box(x, y, right - x, low - y, 6, 'fill="none" stroke="#aaa"'))
        drawn.append(_word(right - 5, low - 4, frame[-1], 'text-anchor="end" font-size="11"'))
    for node in nodes:
        x, y = at[node.key]
        for up in node.parents:
            x0, y0 = at[up]
            bend = (x0 + x) / 2 + 2 * (half + 8) * (y - y0 > ROW)  # round what stands between
            path = f"M{x0:g} {y0 + 20:g} Q{bend:g} {(y0 + y) / 2:g} {x:g} {y - 21:g}"
            drawn.append(f'<path d="{path}" fill="none" stroke="#444" marker-end="url(#arrow)"/>')
    for node in nodes:  # over the edges
        x, y = at[node.key]
        look = f'fill="{"#ddd" if node.kind in ("observed", "input") else "#fff"}" stroke="#222"'
        dashed = ' stroke-dasharray="4"' * (node.kind == "deterministic")
        drawn.append(_box(x - half, y - 20, 2 * half, 40, 0 if node.kind in ("input", "factor") else 20, look + dashed))
        drawn.append(_word(x, y + 5, node.name, 'text-anchor="middle"'))
    height = top + ROW * max(rows.values(), default=0) + 40 + 1.4 * PAD * depth
    legend = "grey: given; square: argument or factor; dashed: deterministic"
    drawn.append(_word(8, height + 14, legend, 'font-size="11"'))
    width, height = max(left, 360), height + 24
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" style="max-width: 100%; background: white"'
    font = 'font-family="sans-serif" font-size="14"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>{ARROW}{"".join(drawn)}</svg>'


def _box(x: float, y: float, width: float, height: float, corner: float, look: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{corner:g}" {look}/>'


def _word(x: float, y: float, word: str, look: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" {look}>{escape(word)}</text>'
