"""The graph of programs in three forms: Graphviz's DOT, Mermaid, and SVG that needs no other program."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from itertools import pairwise, takewhile

from pyro_models.reading.factors import Factor, Plate, Program
from pyro_models.reading.folding import folded
from pyro_models.reading.layout import HEIGHT, ROW, half_width, placed

MOST_PARAMETERS = 16
"""With more parameters and networks than these, none are drawn."""
MERMAID = {
    "observed": '{0}(("{1}")):::given',
    "input": '{0}["{1}"]:::given',
    "deterministic": '{0}((("{1}")))',
    "factor": '{0}{{{{"{1}"}}}}',
    "parameter": '{0}["{1}"]:::parameter',
    "previous": '{0}(("{1}")):::previous',
}
DOT = {
    "observed": "style=filled",
    "uncounted": "style=dashed",
    "deterministic": "peripheries=2",
    "factor": "shape=square style=filled",
    "input": "shape=box style=filled",
    "parameter": "shape=plaintext",
    "previous": "style=dotted",
}
CLASSES = [
    "classDef given fill:#d9d9d9",
    "classDef parameter fill:none,stroke:none",
    "classDef previous stroke-dasharray: 2",
]
LINES = {"": "-->", "possible": "-.->", "guide": "-.->"}
COLOURS = {"added": "#117733", "removed": "#aa3355", "changed": "#bb6600"}
LEGEND = {
    "observed": "grey: observed or given",
    "input": "square: argument",
    "deterministic": "double ring: function",
    "factor": "black: factor",
    "parameter": "point: learned",
    "previous": "dotted: step before",
    "possible": "dotted arrow: possible",
    "guide": "dashed arrow: guide",
    "added": "green: added",
    "removed": "red: removed",
    "changed": "orange: changed",
}


@dataclass(frozen=True)
class Node:
    """A site, an argument, a parameter or network, or a site of the step before in a loop.

    Attributes:
        key: an identifier that no other node has.
        name: what is written on it.
        kind: as in `Factor`, or `parameter`, or `previous`.
        frames: what is drawn around it, the outermost first: the program's title, then plates and loops.
        status: `added`, `removed` or `changed` where two programs are compared.
    """

    key: str
    name: str
    kind: str
    frames: tuple[str, ...]
    status: str = ""


@dataclass
class Graph:
    """Nodes, and edges from one to another, each with a status: of a node, `possible`, or `guide`."""

    nodes: list[Node] = field(default_factory=list)
    edges: dict[tuple[str, str], str] = field(default_factory=dict)

    def nested(self) -> list[Node]:
        """Return the nodes in the order in which forms list them: those that share a frame stand together."""
        depths = [range(len(node.frames) + 1) for node in self.nodes]
        outer = [node.frames[:depth] for node, by in zip(self.nodes, depths, strict=True) for depth in by]
        first = {frames: i for i, frames in reversed(list(enumerate(outer)))}
        return sorted(self.nodes, key=lambda node: [first[node.frames[:i]] for i in range(len(node.frames) + 1)])


def graph_of(programs: Mapping[str, Program], overlay: bool = False) -> Graph:
    """Return the graph of programs side by side, or that of the first with the edges of the other on its nodes."""
    graph = Graph()
    for title, program in list(programs.items())[: 1 if overlay else None]:
        _add(graph, title, program)
    if overlay and len(programs) > 1:
        model, guide = programs.values()
        _, members = folded(model)
        keys = {node.name: node.key for node in graph.nodes}
        for name, factor in guide.factors.items():
            pairs = [(up, site) for joint in factor.parents for up in joint.split(", ") for site in name.split(", ")]
            for start, end in ((keys.get(members.get(name, name)) for name in pair) for pair in pairs):
                if start and end and start != end:
                    graph.edges[start, end] = "guide"
    return graph


def _add(graph: Graph, title: str, program: Program) -> None:
    short, members = folded(program)
    start = len(graph.nodes)
    keys = {name: f"n{start + i}" for i, name in enumerate(short.factors)}
    learned = list(dict.fromkeys(name for factor in short.factors.values() for name in factor.learned))
    points = {name: f"n{start + len(keys) + i}" for i, name in enumerate(learned) if len(learned) <= MOST_PARAMETERS}
    graph.nodes += [
        Node(keys[name], name.removeprefix("input "), factor.kind, (title, *map(_frame, factor.plates)))
        for name, factor in short.factors.items()
    ]
    graph.nodes += [Node(key, name, "parameter", (title,)) for name, key in points.items()]
    for name, factor in short.factors.items():
        graph.edges |= {(points[up], keys[name]): "" for up in factor.learned if up in points}
        for up in (*factor.parents, *factor.possible):
            if up not in keys and members.get(up, up) in keys:
                keys[up] = keys[members[up]]
            if up not in keys:  # of the step before
                keys[up] = f"n{len(graph.nodes)}"
                graph.nodes.append(Node(keys[up], up, "previous", (title, *map(_frame, factor.plates))))
                graph.edges |= {(keys[first], keys[up]): "" for first in _firsts(up, factor.plates) if first in keys}
            if keys[up] != keys[name]:
                graph.edges.setdefault((keys[up], keys[name]), "" if up in factor.parents else "possible")


def _firsts(name: str, plates: Sequence[Plate]) -> list[str]:
    """Return what the site of a step before, `z_{t-1}`, may be called in the first step: `z_0` or `z0`."""
    for plate in plates:
        if plate.steps and (lag := re.search(rf"_?\{{{plate.name}([+-]\d+)\}}", name)):
            number = plate.steps[0] + int(lag[1])
            return [name.replace(lag[0], f"{separator}{number}") for separator in ("_", "")]
    return []


def _frame(plate: Plate) -> str:
    return f"{plate.name} = {plate.steps[0]}..{plate.steps[1]}" if plate.steps else f"{plate.name} ({plate.size})"


def compared(before: Program, after: Program) -> Graph:
    """Return the graph of two versions of a program: what was added, removed or changed between them."""
    graph, old = Graph(), Graph()
    _add(graph, "", after)
    _add(old, "", before)
    keys, names = {node.name: node.key for node in graph.nodes}, {node.key: node.name for node in old.nodes}
    factors = [folded(program)[0].factors for program in (before, after)]
    graph.nodes = [replace(node, status=_status(node.name, *factors)) for node in graph.nodes]
    for node in old.nodes:
        if node.name not in keys:
            keys[node.name] = f"o{node.key}"
            graph.nodes.append(replace(node, key=keys[node.name], status="removed"))
    edges = {(keys[names[start]], keys[names[end]]) for start, end in old.edges}
    graph.edges = {pair: status if pair in edges else "added" for pair, status in graph.edges.items()}
    graph.edges |= {pair: "removed" for pair in edges - graph.edges.keys() if (pair[1], pair[0]) not in graph.edges}
    return graph


def _status(name: str, before: Mapping[str, Factor], after: Mapping[str, Factor]) -> str:
    if name not in after:
        return ""
    if name not in before:
        return "added"
    return "" if replace(before[name], parents=()) == replace(after[name], parents=()) else "changed"


def mermaid(graph: Graph) -> str:
    """Write the graph as a Mermaid flowchart."""

    def label(word: str) -> str:
        return word.replace("#", "#35;").replace('"', "#quot;")

    drawn = {node: MERMAID.get(node.kind, '{0}(("{1}"))').format(node.key, label(node.name)) for node in graph.nested()}
    edges = [f"{start} {LINES.get(status, '-->')} {end}" for (start, end), status in graph.edges.items()]
    return "\n".join(["flowchart TD", *_nested(drawn, 'subgraph f{0}["{1}"]', "end", label), *edges, *CLASSES])


def dot(graph: Graph) -> str:
    """Write the graph for Graphviz."""

    def label(word: str) -> str:
        return word.replace("\\", "\\\\").replace('"', '\\"')

    drawn = {
        node: f'{node.key} [label="{label(node.name)}" {DOT.get(node.kind, "")}]'.replace(" ]", "]")
        for node in graph.nested()
    }
    dashes = {"possible": " [style=dotted]", "guide": " [style=dashed]"}
    edges = [f"{start} -> {end}" + dashes.get(status, "") for (start, end), status in graph.edges.items()]
    opening = 'subgraph cluster_{0} {{ label="{1}"'
    return "\n".join(["digraph story {", *_nested(drawn, opening, "}", label), *edges, "}"])


def _nested(drawn: Mapping[Node, str], start: str, end: str, label: Callable[[str], str]) -> list[str]:
    """Return the lines of the nodes between those that open and close their frames."""
    lines: list[str] = []
    within: tuple[str, ...] = ()
    for node, line in drawn.items():
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(within, node.frames, strict=False)))
        lines += [end] * (len(within) - shared)
        lines += [start.format(len(lines) + i, label(frame)) for i, frame in enumerate(node.frames[shared:])] + [line]
        within = node.frames
    return lines + [end] * len(within)


def svg(graph: Graph) -> str:
    """Draw the graph: each node below its parents, no edge behind a node, each frame around its own nodes alone."""
    at, routes, boxes, (width, height) = placed(graph)
    drawn = []
    for frames, (left, top, right, bottom) in boxes.items():
        if frames[-1]:
            drawn.append(_box(left, top, right - left, bottom - top, 8, 'fill="none" stroke="#999"'))
            drawn.append(_word(right - 6, bottom - 5, frames[-1], 'text-anchor="end" font-size="11" fill="#555"'))
    for edge, points in routes.items():
        status = graph.edges[edge]
        dashes = {"guide": ' stroke-dasharray="6 3"', "possible": ' stroke-dasharray="2 3"'}.get(status, "")
        colour = COLOURS.get(status, "#3366aa" if status == "guide" else "#444")
        path = f"M{points[0][0]:g} {points[0][1]:g}"
        for (x0, y0), (x1, y1) in pairwise(points):
            if y0 == y1 and x0 != x1:  # between nodes of one row, over what stands between
                path += f" C{x0:g} {y0 - ROW / 3:g} {x1:g} {y1 - ROW / 3:g} {x1:g} {y1:g}"
            else:
                middle = (y0 + y1) / 2
                path += f" C{x0:g} {middle:g} {x1:g} {middle:g} {x1:g} {y1:g}"
        drawn.append(f'<path d="{path}" fill="none" stroke="{colour}"{dashes} marker-end="url(#arrow)"/>')
    drawn += [_drawn(node, *at[node.key]) for node in graph.nodes]
    present = {word for node in graph.nodes for word in (node.kind, node.status)} | set(graph.edges.values())
    legend = [words for kind, words in LEGEND.items() if kind in present]
    lines = [", ".join(legend[i : i + 4]) for i in range(0, len(legend), 4)]
    drawn += [_word(8, height + 14 * (i + 1), line, 'font-size="11" fill="#555"') for i, line in enumerate(lines)]
    width, height = max(width, *(6 * len(line) + 16 for line in lines), 40), height + 14 * len(lines) + 8
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" style="max-width: 100%; background: white"'
    arrow = '<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    arrow += '<path d="M0 0 8 4 0 8z" fill="context-stroke"/></marker>'
    font = 'font-family="sans-serif" font-size="14"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>{arrow}{"".join(drawn)}</svg>'


def _drawn(node: Node, x: float, y: float) -> str:
    half, tall, colour = half_width(node), HEIGHT / 2, COLOURS.get(node.status, "#222")
    fill = "#ddd" if node.kind in ("observed", "input") else "#fff"
    look = f'fill="{fill}" stroke="{colour}"' + ' stroke-width="2"' * bool(node.status)
    name = _word(x, y + 5, node.name, 'text-anchor="middle"')
    if node.kind == "parameter":
        return f'<circle cx="{x:g}" cy="{y + tall - 4:g}" r="4" fill="{colour}"/>' + _word(
            x, y + tall - 14, node.name, 'text-anchor="middle" font-size="12"'
        )
    if node.kind == "factor":
        return _box(x - half, y - tall, 2 * half, HEIGHT, 0, 'fill="#333" stroke="#333"') + _word(
            x, y + 5, node.name, 'text-anchor="middle" fill="#fff"'
        )
    if node.kind == "input":
        return _box(x - half, y - tall, 2 * half, HEIGHT, 0, look) + name
    if node.kind in ("previous", "uncounted"):
        look += ' stroke-dasharray="2 3"'
    ring = _box(x - half + 3, y - tall + 3, 2 * half - 6, HEIGHT - 6, tall - 3, look) * (node.kind == "deterministic")
    return _box(x - half, y - tall, 2 * half, HEIGHT, tall, look) + ring + name


def _box(x: float, y: float, width: float, height: float, corner: float, look: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{corner:g}" {look}/>'


def _word(x: float, y: float, word: str, look: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" {look}>{escape(word)}</text>'
