"""Pictures of graphs: each site in its plates, no edge behind a node, what the shapes and dashes mean."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_models.reading import story
from pyro_models.reading.factors import Factor, Plate, Program
from pyro_models.reading.graphs import compared, graph_of, svg
from pyro_models.reading.layout import HEIGHT, half_width, placed

SVG = "{http://www.w3.org/2000/svg}"


def topics(words):
    with pyro.plate("topics", 3):
        weights = pyro.sample("weights", dist.Gamma(1.0, 1.0))
        topic = pyro.sample("topic", dist.Dirichlet(torch.ones(7)))
    with pyro.plate("documents", 4):
        shares = pyro.sample("shares", dist.Dirichlet(weights))
        with pyro.plate("words", 6):
            label = pyro.sample("label", dist.Categorical(shares))
            pyro.sample("word", dist.Categorical(topic[label]), obs=words)


def walk(x):
    z = pyro.sample("z_0", dist.Normal(0.0, 1.0))
    for t in pyro.markov(range(1, len(x))):
        z = pyro.sample(f"z_{t}", dist.Normal(z, pyro.param("scale", torch.ones(()))))
        pyro.sample(f"x_{t}", dist.Normal(z, 1.0), obs=x[t])


def random_program(seed, sites=100):
    """A program of a hundred sites in plates up to two deep, each with up to three parents before it."""
    draw = torch.Generator().manual_seed(seed)

    def integer(high):
        return int(torch.randint(high, (), generator=draw))

    plates = [(), (Plate("a", 5, 5),), (Plate("a", 5, 5), Plate("b", 4, 4)), (Plate("c", 3, 3),)]
    factors = {}
    for i in range(sites):
        ups = tuple(dict.fromkeys(f"site {integer(i)}" for _ in range(integer(4)))) if i else ()
        factors[f"site {i}"] = Factor(f"site {i}", "latent", "Normal()", ups, plates[integer(4)])
    return Program(factors, {}, {})


def edges_behind_nodes(graph):
    """Pairs of an edge and a node that is none of its ends, through whose middle row the edge passes within it."""
    at, routes, _, _ = placed(graph)
    behind = []
    for (start, end), points in routes.items():
        for (x0, y0), (x1, y1) in pairwise(points):
            for node in graph.nodes:
                x, y = at[node.key]
                crosses = (
                    min(y0, y1) < y < max(y0, y1)
                    and min(x0, x1) <= x + half_width(node)
                    and max(x0, x1) >= x - half_width(node)
                )
                if node.key not in (start, end) and crosses:
                    behind.append((start, end, node.name))
    return behind


GRAPHS = {
    "topics": lambda: graph_of(story(topics, torch.zeros(6, 4).long()).programs),
    "walk": lambda: graph_of(story(walk, torch.zeros(9)).programs),
    "hundred": lambda: graph_of({"story p": random_program(0)}),
    "another hundred": lambda: graph_of({"story p": random_program(1)}),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_edges_pass_behind_no_node_and_frames_hold_their_own_nodes_alone(name):
    graph = GRAPHS[name]()
    assert edges_behind_nodes(graph) == []
    at, routes, boxes, (width, height) = placed(graph)
    assert set(routes) == set(graph.edges)
    for frames, (left, top, right, bottom) in boxes.items():
        inside = set()
        for node in graph.nodes:
            (x, y), half = at[node.key], half_width(node)
            if left < x < right and top < y < bottom:
                inside.add(node.key)
                assert left <= x - half
                assert x + half <= right
                assert top <= y - HEIGHT / 2
                assert y + HEIGHT / 2 <= bottom
        assert inside == {node.key for node in graph.nodes if node.frames[: len(frames)] == frames}
        assert left >= 0
        assert right <= width
        assert top >= 0
        assert bottom <= height
    rows = {}
    for node in graph.nodes:
        rows.setdefault(at[node.key][1], []).append((at[node.key][0], half_width(node)))
    for row in map(sorted, rows.values()):
        assert all(x0 + half0 < x1 - half1 for (x0, half0), (x1, half1) in pairwise(row))
    ElementTree.fromstring(svg(graph))


def test_a_loop_is_drawn_as_a_step_and_the_one_before():
    graph = GRAPHS["walk"]()
    names = {node.key: node.name for node in graph.nodes}
    assert {(names[a], names[b]) for a, b in graph.edges} == {
        ("z_0", "z_{t-1}"),
        ("z_{t-1}", "z_t"),
        ("scale", "z_t"),
        ("z_t", "x_t"),
    }
    assert {node.name: node.frames[1:] for node in graph.nodes} == {
        "z_0": (),
        "z_t": ("t = 1..8",),
        "x_t": ("t = 1..8",),
        "z_{t-1}": ("t = 1..8",),
        "scale": (),
    }


def test_shapes_and_dashes():
    def model(x, c):
        z = pyro.sample("z", dist.Normal(c, pyro.param("scale", torch.ones(()))))
        y = pyro.deterministic("y", z.exp())
        pyro.factor("penalty", -y)
        pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    read = story(model, torch.tensor(0.0), torch.tensor(1.0), guide=AutoNormal(model))
    picture = ElementTree.fromstring(svg(graph_of({"story p": read.programs["story p"]})))
    words = {word.text: word for word in picture.iter(f"{SVG}text")}
    boxes = [(box.get("rx"), box.get("fill")) for box in picture.iter(f"{SVG}rect")]
    assert {"z", "y", "penalty", "x", "c", "scale"} <= set(words)
    assert len([1 for _, fill in boxes if fill == "#ddd"]) == 2  # x and c
    assert ("0", "#ddd") in boxes  # c, a square
    assert boxes.count(("16", "#fff")) == 1  # the inner ring of y
    assert ("0", "#333") in boxes  # the factor
    assert len(list(picture.iter(f"{SVG}circle"))) == 1  # the point of the parameter


def test_the_guide_is_dashed_on_the_nodes_of_the_story_where_that_is_asked_for():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(x, 1.0))

    read = story(model, torch.tensor(0.0), guide=guide)
    graph = graph_of(read.programs, overlay=True)
    names = {node.key: node.name for node in graph.nodes}
    edges = {(names[a], names[b]): status for (a, b), status in graph.edges.items()}
    assert edges == {("z", "x"): "", ("x", "z"): "guide"}
    assert len(re.findall("stroke-dasharray", svg(graph))) == 1


def test_what_differs_between_two_versions_is_coloured():
    def model(x, deep):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        if deep:
            z = pyro.sample("w", dist.Normal(z, 1.0))
        pyro.sample("x", dist.Normal(z, 2.0 if deep else 1.0), obs=x)

    before, after = (story(model, torch.tensor(0.0), deep).programs["story p"] for deep in (False, True))
    graph = compared(before, after)
    names = {node.key: node.name for node in graph.nodes}
    assert {node.name: node.status for node in graph.nodes} == {"z": "", "w": "added", "x": "changed"}
    edges = {(names[a], names[b]): status for (a, b), status in graph.edges.items()}
    assert edges == {("z", "w"): "added", ("w", "x"): "added", ("z", "x"): "removed"}
