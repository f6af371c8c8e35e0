"""Programs written from a known graph are read as that graph, however their sites are computed from each other."""

import math
from contextlib import ExitStack
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_models.reading.factors import read

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

TABLE, PLATES = torch.tensor([-1.0, 1.0, 0.5]), (("a", 2), ("b", 3), ("c", 2))


def parity(number):
    """Something of a number that half of its other values do not have."""
    return math.sin(7 * float(number)) > 0


def buffer(value, other):
    whole = torch.zeros(2, *value.shape)
    whole[1], whole[0] = other.sum(), value
    return whole[0]


def overwritten(value, other):
    whole = torch.zeros_like(value) + other.sum()
    whole[...] = value
    return whole


def scanned(value, other):
    steps = torch.zeros(value.numel() + 1)
    for i, part in enumerate(value.flatten()):
        steps[i + 1] = 0.5 * steps[i] + part
    return steps[-1]


def carried(value, other):
    state = value.new_zeros(()).type_as(other)
    for part in value.flatten().unbind():
        state = torch.tanh(state + part)
    return state


WAYS = {  # of a value to count, and of another not to
    "as it is": lambda value, other: value,
    "nonlinear": lambda value, other: 1 - torch.tanh(2 * value),
    "written in place": buffer,
    "written over": overwritten,
    "stacked": lambda value, other: torch.stack([other.sum().expand(value.shape), value])[1],
    "under a mask": lambda value, other: torch.where(torch.tensor(True), value, other.sum()),
    "scanned in place": scanned,
    "carried along": carried,
    "as an index": lambda value, other: TABLE[(torch.sin(7 * value.sum()) > 0).long()],
    "at an index": lambda value, other: torch.cat([value.flatten(), other.flatten()])[torch.tensor([0])].sum(),
    "under `if`": lambda value, other: torch.tensor(1.0 if parity(value.sum().item()) else -1.0),
    "outside torch": lambda value, other: torch.tensor(math.sin(float(value.numpy().sum()))),
    "in a list": lambda value, other: torch.tensor([other.sum(), value.sum()])[1],
    "first of a sum": lambda value, other: torch.stack([value.sum(), other.sum()]).cumsum(0)[0],
    "row of a sum": lambda value, other: torch.stack([value.sum().expand(3), other.sum().expand(3)]).logsumexp(-1)[0],
    "its shape": None,
    "in the mask": None,
    "in the distribution's mask": None,
    "in the scale": None,
}
DENSITY = ("in the mask", "in the distribution's mask", "in the scale")


def soft(number):
    """Something between -1 and 1 that no number is large enough to leave unchanged."""
    return number / (1 + number.abs())


LAWS = {
    "Normal": lambda loc: dist.Normal(loc, 1.0),
    "LogNormal": lambda loc: dist.LogNormal(soft(loc), 0.5),
    "Bernoulli": lambda loc: dist.Bernoulli(logits=soft(loc)),
    "Gamma": lambda loc: dist.Gamma(2.0, 1.5 + soft(loc)),
    "Normal's scale": lambda loc: dist.Normal(0.0, 1.5 + soft(loc)),
}


@dataclass(frozen=True)
class Site:
    """How a site of a random program is written: `depth` plates around it, `ways` from parents to how they count."""

    name: str
    law: str
    depth: int
    ways: tuple[tuple[str, str], ...]
    branch: tuple[str, ...]  # of three: which of the others counts, by the parity of the first
    function: bool  # whether the location is a deterministic site
    observed: bool


@st.composite
def programs(draw, most):
    sites = []
    for i in range(draw(st.integers(2, most))):
        before = [site.name for site in sites]
        ups = draw(st.lists(st.sampled_from(before), max_size=3, unique=True)) if before else []
        branch = draw(st.permutations(before))[:3] if len(before) > 2 and draw(st.integers(0, 3)) == 0 else []
        sites.append(
            Site(
                f"s{i}x",
                draw(st.sampled_from(list(LAWS))),
                draw(st.integers(0, len(PLATES))),
                tuple((up, draw(st.sampled_from(list(WAYS)))) for up in ups),
                tuple(branch),
                draw(st.integers(0, 4)) == 0,
                draw(st.integers(0, 3)) == 0,
            )
        )
    return tuple(sites), draw(st.booleans())


def reduced(value, depth):
    """Sum over the plates that a site is not in."""
    return reduced(value.sum(0), depth) if value.dim() > depth else value


def write(sites, is_loop):
    """Return the program, the outermost plate one by one or vectorised, and the parents of each of its sites."""
    parents = {}
    copies = range(PLATES[0][1]) if is_loop else [None]

    def names(site, copy):
        """The sites that stand for another, seen from a copy: its own copy, or all where it has none."""
        if not is_loop or site.depth == 0:
            return [site.name]
        return [f"{site.name}_{i}" for i in (copies if copy is None else [copy])]

    by_name = {site.name: site for site in sites}
    for site in sites:
        for copy in copies if is_loop and site.depth else [None]:
            own = names(site, copy)[0]
            ups = {up for up, way in site.ways if way != "its shape"} | set(site.branch)
            parents[own] = {name for up in ups for name in names(by_name[up], copy)}

    def program():
        values = {}
        plates = [pyro.plate(name, size) for name, size in PLATES]

        def seen(up, copy, depth):
            return sum(reduced(values[name], depth) for name in names(by_name[up], copy))

        def sample(site, copy):
            own, depth = names(site, copy)[0], site.depth - is_loop * bool(site.depth)
            with ExitStack() as around:
                for plate in plates[1:][:depth] if is_loop else plates[:depth]:
                    around.enter_context(plate)
                loc, masks = torch.zeros(()), []
                other = next(iter(values.values()), torch.zeros(()))
                for up, way in site.ways:
                    value = seen(up, copy, depth)
                    if way == "its shape":
                        loc = loc + value.new_zeros(value.shape) + torch.zeros_like(value).type_as(value)
                    elif way == "in the mask":
                        around.enter_context(poutine.mask(mask=value.sum() > 0))
                    elif way == "in the scale":
                        around.enter_context(poutine.scale(scale=1 + value.sum() ** 2))
                    elif way == "in the distribution's mask":
                        masks.append(value.sum() > 0)
                    else:
                        loc = loc + WAYS[way](value, other)
                if site.branch:
                    first, second, third = (seen(up, copy, depth) for up in site.branch)
                    loc = loc + (second if parity(first.sum().item()) else third)
                if site.function:
                    loc = pyro.deterministic(f"{own}_loc", loc, event_dim=0)
                fn = LAWS[site.law](loc)
                shape = [plate.size for plate in reversed(plates[1:][:depth] if is_loop else plates[:depth])]
                fn = fn.expand(torch.broadcast_shapes(fn.batch_shape, shape))
                for mask in masks:
                    fn = fn.mask(mask)
                observed = torch.ones(shape) if site.observed else None
                values[own] = pyro.sample(own, fn, obs=observed)

        for site in sites:
            if is_loop and site.depth:
                for copy in plates[0]:
                    sample(site, copy)
            else:
                sample(site, None)

    return program, parents


def assert_read_as_written(written):
    program, parents = write(*written)
    found = read(program, [], {})
    assert {name: set(found.given(name)) for name in parents} == parents


SETTINGS = {
    "deadline": None,
    "derandomize": True,
    "phases": [hypothesis.Phase.generate],  # a program of a few sites needs no shrinking, which would take minutes
    "suppress_health_check": list(hypothesis.HealthCheck),
}


@hypothesis.settings(max_examples=15, **SETTINGS)
@hypothesis.given(programs(most=5))
def test_a_random_program_has_the_parents_that_it_was_written_with(written):
    assert_read_as_written(written)


@pytest.mark.long
@hypothesis.settings(max_examples=1000, **SETTINGS)
@hypothesis.given(programs(most=9))
def test_a_thousand_random_programs_have_the_parents_that_they_were_written_with(written):
    assert_read_as_written(written)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_computing_with_a_value_is_followed(way):
    """The other value is that of the first site, which counts in none of the ways."""
    for depth in (0, 2):
        first = [Site(name, "Normal", depth, (), (), False, False) for name in ("other", "z")]
        assert_read_as_written((tuple([*first, Site("x", "Normal", depth, (("z", way),), (), True, True)]), depth == 2))
