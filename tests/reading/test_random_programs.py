"""Programs written from a known graph are read as that graph, however their sites are computed from each other."""

import math
from contextlib import ExitStack
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam

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


def placed(value, other):
    whole = other.new_zeros(2)
    whole[(torch.sin(7 * value.sum()) > 0).long()] += 1
    return whole[0]


def put(value, other):
    whole = torch.stack([torch.zeros(()), torch.ones(()), other.sum()])
    whole.index_put_(((torch.sin(7 * value.sum()) > 0).long().reshape(1),), torch.full((1,), 3.0))
    return whole[0]


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
    "at a computed place": lambda value, other: TABLE[(torch.sin(7 * value.sum()) > 0).long().sum()],
    "written to a computed place": placed,
    "put at a computed place": put,
    "row of a product": lambda value, other: (torch.stack([value.sum(), other.sum()])[:, None] @ torch.ones(1, 2))[
        0, 1
    ],
    "gathered": lambda value, other: torch.cat([value.flatten(), other.flatten()]).gather(0, torch.tensor([0])).sum(),
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


CENTRED = ("Normal", "Normal's scale")
LAWS = {
    "Normal": lambda loc: dist.Normal(loc, 1.0),
    "LogNormal": lambda loc: dist.LogNormal(soft(loc), 0.5),
    "Bernoulli": lambda loc: dist.Bernoulli(logits=soft(loc)),
    "Gamma": lambda loc: dist.Gamma(2.0, 1.5 + soft(loc)),
    "Normal's scale": lambda loc: dist.Normal(0.0, 1.5 + soft(loc)),
}


LOOKS = ("under `if`", "outside torch")
"""Ways that only other draws show, which take many runs."""


@dataclass(frozen=True)
class Site:
    """How a site of a random program is written: `depth` plates around it, `ways` from parents to how they count.

    Attributes:
        branch: of three other sites: which of the last two counts, by the parity of the first.
        gate: a site without which, by its parity, this one is not there.
        function: whether the location is a deterministic site.
        observed: whether it is.
        added: a site whose value is added to the data.
        learned: whether a parameter counts.
        centred: of a reparameterised site, how much of its location stays with what is drawn.
    """

    name: str
    law: str = "Normal"
    depth: int = 0
    ways: tuple[tuple[str, str], ...] = ()
    branch: tuple[str, ...] = ()
    gate: str = ""
    function: bool = False
    observed: bool = False
    added: str = ""
    learned: bool = False
    centred: float | None = None


@st.composite
def programs(draw, most, looking):
    """Programs of up to so many sites, one in `looking` of which looks at values outside torch."""
    sites = [Site("c", "argument")]

    def chance(one_in):
        return draw(st.integers(1, one_in)) == 1

    looks = chance(looking) if looking else False
    for i in range(draw(st.integers(2, most))):
        before = [site.name for site in sites if not site.gate]
        drawn = before[1:]  # without the argument
        ups = draw(st.lists(st.sampled_from(before), max_size=3, unique=True))
        chosen = [way for way in WAYS if looks or way not in LOOKS]
        ways = [(up, draw(st.sampled_from(chosen))) for up in ups]
        ways = [(up, "nonlinear" if up == "c" and way in LOOKS else way) for up, way in ways]
        law, observed = draw(st.sampled_from(list(LAWS))), chance(3)
        gate = draw(st.sampled_from(drawn)) if looks and drawn and chance(6) else ""
        can_centre = (
            law in CENTRED and not observed and not gate and "in the distribution's mask" not in dict(ways).values()
        )
        sites.append(
            Site(
                f"s{i}x",
                law,
                depth=draw(st.integers(0, len(PLATES))),
                ways=tuple(ways),
                branch=tuple(draw(st.permutations(drawn))[:3]) if looks and not gate and len(drawn) > 2 else (),
                gate=gate,
                function=chance(5),
                observed=observed,
                added=draw(st.sampled_from(drawn)) if observed and drawn and chance(2) else "",
                learned=chance(3),
                centred=draw(st.sampled_from([0.0, 0.5])) if can_centre and chance(2) else None,
            )
        )
    return tuple(sites), draw(st.booleans())


def reduced(value, depth):
    """Sum over the plates that a site is not in."""
    return reduced(value.sum(0), depth) if value.dim() > depth else value


def names(site, copy, is_loop):
    """The sites that stand for another, seen from a copy of a site: its own copy, or all where it has none."""
    if not is_loop or site.depth == 0:
        return [site.name]
    return [f"{site.name}_{i}" for i in (range(PLATES[0][1]) if copy is None else [copy])]


def graph(sites, is_loop):
    """Return from which sites and arguments each site is computed, functions replaced by what they are of."""
    by_name, given, reached = {site.name: site for site in sites}, {}, {"c": {"c"}}
    for site in sites[1:]:
        for copy in range(PLATES[0][1]) if is_loop and site.depth else [None]:
            (own,) = names(site, copy, is_loop)
            of = {
                kind: set().union(*(reached[name] for up in ups for name in names(by_name[up], copy, is_loop)))
                for kind, ups in {
                    "value": [*(up for up, way in site.ways if way not in DENSITY and WAYS[way]), *site.branch],
                    "density": [up for up, way in site.ways if way in DENSITY],
                    "rest": [up for up in (site.gate, site.added) if up],
                }.items()
            }
            given[own] = of["value"] | of["density"] | of["rest"]
            reached[own] = {own}
            if site.centred is not None:
                noise = f"{own}_decentered"
                given[noise] = of["density"] | (of["value"] if site.centred else set())
                given[own] = reached[own] = of["value"] | {noise}
    return given


def write(sites, is_loop):
    """Return the program, the outermost plate one by one or vectorised, and its data."""
    by_name = {site.name: site for site in sites}
    inner = {site.name: PLATES[bool(is_loop) :][: site.depth - is_loop * bool(site.depth)] for site in sites}
    data, reparams = {}, {}
    for site in sites[1:]:
        for copy in range(PLATES[0][1]) if is_loop and site.depth else [None]:
            (own,) = names(site, copy, is_loop)
            if site.observed:
                data[own] = torch.ones([size for _, size in reversed(inner[site.name])])
            if site.centred is not None:
                reparams[own] = LocScaleReparam(site.centred)

    def program(c, data):
        values = {"c": c}
        plates = {name: pyro.plate(name, size) for name, size in PLATES}

        def seen(up, copy, depth):
            return sum(reduced(values[name], depth) for name in names(by_name[up], copy, is_loop))

        def sample(site, copy):
            (own,), depth = names(site, copy, is_loop), len(inner[site.name])
            if site.gate and parity(seen(site.gate, copy, depth).sum().item()):
                return
            with ExitStack() as around:
                for name, _ in inner[site.name]:
                    around.enter_context(plates[name])
                loc, masks = torch.zeros(()), []
                other = next(iter(values.values()))
                if site.learned:
                    loc = loc + pyro.param(f"{site.name}_p", torch.tensor(0.1))
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
                fn = fn.expand(torch.broadcast_shapes(fn.batch_shape, [size for _, size in reversed(inner[site.name])]))
                for mask in masks:
                    fn = fn.mask(mask)
                observed = data[own] if site.observed else None
                if site.added:
                    observed = observed + soft(seen(site.added, copy, depth)) ** 2
                infer = {"enumerate": "parallel"} if site.law == "Bernoulli" and not site.observed else {}
                values[own] = pyro.sample(own, fn, obs=observed, infer=infer)

        for site in sites[1:]:
            if is_loop and site.depth:
                for copy in plates[PLATES[0][0]]:
                    sample(site, copy)
            else:
                sample(site, None)

    return (poutine.reparam(program, reparams) if reparams else program), data


def assert_read_as_written(sites, is_loop):
    program, data = write(sites, is_loop)
    found, given = read(program, [torch.tensor(0.4), data], {}), graph(sites, is_loop)
    for site in sites[1:]:
        for own in names(site, None, is_loop):
            if site.gate and own not in found.factors:
                continue
            assert set(found.given(own)) == given[own], own
            assert not found.factors[own].possible
            around = [name for name, _ in PLATES[bool(is_loop) : site.depth]]
            assert [plate.name for plate in found.factors[own].plates] == around
            assert found.factors[own].is_enumerated == (site.law == "Bernoulli" and not site.observed)
            learned = {*found.factors[own].learned, *found.factors.get(f"{own}_loc", found.factors[own]).learned}
            assert learned == ({f"{site.name}_p"} if site.learned else set())
            if site.centred is not None:
                assert set(found.given(f"{own}_decentered")) == given[f"{own}_decentered"], own
                assert found.factors[own].kind == "deterministic"


SETTINGS = {
    "deadline": None,
    "database": None,
    "phases": [hypothesis.Phase.generate],  # a program of a few sites needs no shrinking, which would take minutes
    "suppress_health_check": list(hypothesis.HealthCheck),
}


def check(seed, number, most, looking):
    """Write programs, and read them."""

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=number, **SETTINGS)
    @hypothesis.given(programs(most, looking))
    def read_as_written(written):
        assert_read_as_written(*written)

    read_as_written()


def test_random_programs_have_the_parents_that_they_were_written_with():
    check(0, 40, 5, looking=0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_a_thousand_random_programs_have_the_parents_that_they_were_written_with(seed):
    check(seed, 50, 8, looking=6)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_computing_with_a_value_is_followed(way):
    """The other value is that of the argument, which counts in none of the ways."""
    for depth in (0, 2)[: 1 if way in LOOKS else 2]:
        x = Site("x", "Normal", depth, (("z", way),), function=True, observed=True)
        assert_read_as_written((Site("c", "argument"), Site("z", depth=depth), x), depth == 2)
