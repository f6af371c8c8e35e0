"""The factors of a probabilistic program, each with its parents, read off by running it."""

import copy
import inspect
import itertools
import math
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger, unwrap
from pyro.poutine.util import site_is_subsample
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor
from torch.distributions import biject_to
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_flatten_with_path, tree_leaves, tree_map

from pyro_models.base.errors import UserError, first_line
from pyro_models.distributions.columns import Incomplete
from pyro_models.reading.describing import ARGUMENTS, Numbers, described, kernel, layers, parameter_names, to_support
from pyro_models.reading.tracking import Source, Tags, Tracking

DRAWS, RUNS = 20, 200
"""Other draws of each value that is looked at outside torch, and how many runs these may take together."""

OF_ARGUMENTS, LEAST = 2, 5
"""Draws of an argument, other numbers in which change at once what depends on it; with fewer of a site than the least,
later sites possibly depend on it."""
BRANCHES = 10
"""Draws of a value after which no further branch is looked for, where all that follows depends on it already."""
LONGEST = 80
"""Letters of a distribution: a longer one is written without what its parameters are computed from."""
COUNTS = "adds to the density"
"""The mark of a function that does, as a reparameterised site may."""
Values = dict[str, Any]


@dataclass(frozen=True)
class Plate:
    """A vectorised `pyro.plate`, or a loop: its name, its size, and how many of these a subsample has.

    Attributes:
        steps: of a loop, the first and the last number in its sites' names; None for a plate.
    """

    name: str
    size: int
    drawn: int
    steps: tuple[int, int] | None = None


@dataclass(frozen=True)
class Factor:
    """One site of a program, and so one factor of its density, or an argument that sites depend on.

    Attributes:
        name: of the site; of several sites that a guide draws together, all of these.
        kind: `latent` or `observed`; `improper`, a latent whose density is masked to a constant; `uncounted`, an
            observed site whose density is; `deterministic` for a function of other sites, which `pyro.deterministic`
            and reparameterised sites are; `factor` for `pyro.factor`; `input` for an argument.
        distribution: its name and its parameters', as `Normal(loc, scale)`.
        parents: the sites and arguments that the distribution depends on directly, or the observed value does.
        plates: those around the site, the outermost first.
        shapes: the batch's and the event's.
        marks: how its density counts: observed, enumerated, masked, scaled, in a sequential plate.
        shown: the distribution with its constants, and the names of values that its parameters are copies of.
        named: the parents that `shown` names.
        possible: what the site may depend on besides: values that were looked at outside torch before it.
        learned: the parameters and networks that the distribution depends on.
        value: what an observed value is computed from, where that is more than one argument; its data come first.
        support: what takes real numbers to the support of a latent.
    """

    name: str
    kind: str
    distribution: str = ""
    parents: tuple[str, ...] = ()
    plates: tuple[Plate, ...] = ()
    shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    marks: tuple[str, ...] = ()
    shown: str = ""
    named: tuple[str, ...] = ()
    possible: tuple[str, ...] = ()
    learned: tuple[str, ...] = ()
    value: tuple[str, ...] = ()
    support: str = ""

    @property
    def is_weight(self) -> bool:
        """Whether it multiplies the density without being one."""
        return self.kind == "factor" or COUNTS in self.marks

    @property
    def is_enumerated(self) -> bool:
        """Whether its density is summed over all values."""
        return any(mark.startswith("enumerated") for mark in self.marks)


@dataclass(frozen=True)
class Program:
    """The factors of a program, its inputs first, then in the order of its run.

    Attributes:
        factors: by name.
        parameters: how many numbers each parameter or network has.
        observes: from the name of an argument, `input x`, to the site that it is observed at, where there is one.
    """

    factors: dict[str, Factor]
    parameters: dict[str, int]
    observes: dict[str, str]

    def of(self, *kinds: str) -> list[str]:
        """Return the names of the factors of these kinds, in order."""
        return [name for name, factor in self.factors.items() if factor.kind in kinds]

    def given(self, name: str) -> list[str]:
        """Return the parents of a factor, deterministic ones replaced by theirs."""
        return self._given[name]

    @cached_property
    def _given(self) -> dict[str, list[str]]:
        given: dict[str, list[str]] = {}
        for name, factor in self.factors.items():
            ups = [given[up] if self._is_function(up) and up in given else [up] for up in factor.parents]
            given[name] = list(dict.fromkeys(itertools.chain(*ups)))
        return given

    def _is_function(self, name: str) -> bool:
        return name in self.factors and self.factors[name].kind == "deterministic"


@dataclass
class Site:
    """What happened at one sample site of a run: Pyro's message, and what it depends on."""

    msg: Any
    kind: str
    distribution: str
    shown: str
    sources: frozenset[Source]
    named: frozenset[Source]
    functions: list[frozenset[Source]]
    observed: Tags
    density: list[Tensor]
    parameters: list[Tensor]
    time: int

    def add(self, sources: Collection[Source]) -> None:
        """Add sources that the run did not show: so its numbers are no constants either."""
        if not self.sources >= set(sources):
            self.sources |= set(sources)
            self.forget_numbers()

    def forget_numbers(self) -> None:
        """Write the distribution with the names of its parameters alone."""
        self.shown, self.named, self.functions = self.distribution, frozenset(), []


@dataclass
class Reader(Messenger):
    """Run a program with given values of sites, latent or observed, and keep what each site depends on.

    It stands outermost, so that it sees what handlers within the program made of a site.

    Attributes:
        values: by the names of sites.
        tracking: follows what is computed from what.
        in_words: whether distributions are written down.
        sites: by name, in order.
        indices: the values of subsampled plates.
        sizes: how many numbers each parameter has.
    """

    values: Mapping[str, Any]
    tracking: Tracking
    in_words: bool = True
    sites: dict[str, Site] = field(default_factory=dict)
    indices: Values = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self.before: dict[str, tuple[list[str], Tags]] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name in self.sites or name in self.indices:
            raise UserError(f"two sites are named `{name}`, which Pyro refuses too: give each a name of its own")
        observed = self.tracking.of(msg["value"]) if msg["is_observed"] else Tags()
        self.before[name] = parameter_names(msg["fn"]), observed  # before a draw makes logits beside probs
        with self.tracking.pause():
            if name in self.values and not _is_function(msg) and _fits(self.values[name], msg):
                msg["value"], msg["done"] = self.values[name], True
            elif isinstance(improper := layers(msg["fn"])[-1], dist.ImproperUniform) and msg["value"] is None:
                to_support = biject_to(improper.support)  # of which any value will do
                real = torch.randn(to_support.inverse_shape(msg["fn"].shape()))
                msg["value"], msg["done"] = to_support(real), True

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            self.indices[msg["name"]] = msg["value"]
            return
        names, observed = self.before[msg["name"]]
        tracking, fn = self.tracking, msg["fn"]
        drawn = tracking.of(msg["value"])
        with tracking.pause():
            kind = _kind(msg)
            value, again = _copied(msg["value"]), _copied(msg["value"])  # a transform may cache what it has seen
        if kind == "deterministic":  # whatever its masks and scales are
            density, sources = [value], observed.sources
        else:
            density, sources = _density(fn, again, drawn, tracking)
            counts = [getattr(layer, "_mask", None) for layer in layers(fn)] + [msg["mask"], msg["scale"]]
            sources |= tracking.of(counts).sources
            density += [torch.as_tensor(part) for part in counts if part is not None]
        parameters = [held for name in names if isinstance(held := getattr(layers(fn)[-1], name, None), Tensor)]
        numbers = Numbers(tracking)
        with tracking.pause():
            self.sites[msg["name"]] = Site(
                dict(msg) | {"value": value},
                kind,
                described(fn, names) if self.in_words else "",
                described(fn, names, numbers.write) if self.in_words else "",
                sources,
                numbers.copied,
                numbers.functions,
                observed,
                _copied(density),
                _copied(parameters),
                tracking.time,
            )
        tracking.time += 1
        msg["value"] = self.values.get(msg["name"], value) if kind == "deterministic" else value
        leaves = [leaf for leaf in tree_leaves(msg["value"]) if isinstance(leaf, Tensor)]
        for leaf in leaves:
            tracking.tag(leaf, ("site", msg["name"]))
        if not leaves:  # it cannot be followed
            tracking.lost.setdefault(("site", msg["name"]), tracking.time)

    def _pyro_post_param(self, msg: Any) -> None:
        self.sizes[msg["name"]] = math.prod(msg["value"].shape)
        self.tracking.tag(msg["value"], ("param", msg["name"]))


def _copied(value: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, value)


def _fits(value: Any, msg: Any) -> bool:
    """Whether a value is as large as that of a site is now: a plate of another size takes no values of before."""
    if site_is_subsample(msg):
        return len(value) == msg["fn"].subsample_size
    if not isinstance(value, Tensor) or not hasattr(msg["fn"], "shape"):
        return True
    return value.shape == (msg["value"].shape if isinstance(msg["value"], Tensor) else msg["fn"].shape())


def _density(fn: Any, value: Any, drawn: Tags, tracking: Tracking) -> tuple[list[Tensor], frozenset[Source]]:
    """Return what a distribution adds to the density, to see where two of these differ, and what that depends on."""
    base = next((layer for layer in layers(fn) if isinstance(layer, Incomplete)), layers(fn)[-1])
    try:
        density = [base.log_factor if type(base).__name__ == "Unit" else torch.as_tensor(base.log_prob(value))]
    except (NotImplementedError, AttributeError, KeyError):  # it can only be drawn from, or evaluated at its own draws
        return [part for part in vars(base).values() if isinstance(part, Tensor)], drawn.sources
    return density, tracking.of(density).sources


def _is_function(msg: Any) -> bool:
    """Whether a site is a function of others: `pyro.deterministic`, or what a reparameteriser leaves of a site."""
    fn = layers(msg["fn"])
    if not msg["is_observed"] or type(fn[-1]).__name__ != "Delta":
        return False
    masked = any(getattr(each, "_mask", None) is False for each in fn)
    value, point = msg["value"], fn[-1].v
    return masked or (isinstance(value, Tensor) and value.data_ptr() == point.data_ptr() and value.numel() > 0)


def _kind(msg: Any) -> str:
    fn = layers(msg["fn"])
    if _is_function(msg):
        return "deterministic"
    if type(fn[-1]).__name__ == "Unit":
        return "factor"
    counts = not (msg["mask"] is False or any(getattr(layer, "_mask", None) is False for layer in fn))
    counts = counts and not isinstance(fn[-1], dist.ImproperUniform)
    if msg["is_observed"]:
        return "observed" if counts else "uncounted"
    return "latent" if counts else "improper"


def inputs_of(
    program: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], model: Callable[..., Any] | None = None
) -> Values:
    """Return the tensors that a program is called with, by the names of its arguments: `input x`.

    Args:
        program: whose arguments these are.
        args, kwargs: the arguments.
        model: names them where the program itself does not, as an automatic guide.

    Raises:
        UserError: the program does not take these arguments.
    """
    signature = _signature(program)
    try:
        arguments = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise UserError(f"{_name(program)} takes {signature}: {first_line(error)}") from None
    if model is not None and any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values()):
        with suppress(TypeError):
            arguments = _signature(model).bind(*args, **kwargs).arguments
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name, {})
    inputs: Values = {}
    for name, value in arguments.items():
        for path, leaf in tree_flatten_with_path(value)[0]:
            whole = f"input {name}" + "".join(map(str, path)).replace("'", '"')
            held = vars(leaf) if is_dataclass(leaf) or isinstance(leaf, SimpleNamespace | Namespace) else {}
            parts = {whole: leaf} | {f"{whole}.{attribute}": part for attribute, part in held.items()}
            inputs |= {part: value for part, value in parts.items() if isinstance(value, Tensor)}
    return inputs


def _signature(program: Any) -> inspect.Signature:
    program = unwrap(program)  # of Pyro's handlers
    if isinstance(program, torch.nn.Module):
        return inspect.signature(program.forward)
    if callable(inner := getattr(program, "fn", None)):  # TraceHandler, ReparamHandler
        return _signature(inner)
    return inspect.signature(program)


def _name(program: Any) -> str:
    program = unwrap(program)
    return getattr(program, "__name__", type(program).__name__)


def read(
    program: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    model: Program | None = None,
    names: Callable[..., Any] | None = None,
) -> Program:
    """Read the factors of a program by running it, with no side effect.

    A site's parents are the sites and arguments that its distribution is computed from, whatever the weights are, as
    `tracking.Tracking` follows (compare Wingate et al., Nonstandard interpretations of probabilistic programs, 2011).
    It takes two runs: the first sets up what is made when first used. A value that is looked at outside torch, under
    `if`, by `.item()` or in numpy, cannot be followed from there: further runs, at most `RUNS`, draw it anew with all
    other sites held as they were, `DRAWS` times (an argument `OF_ARGUMENTS` times), and what changes, or comes to
    depend on other values, shows it to be a parent. A dependence that none of these draws shows is missed; where so
    many values are looked at that the runs do not suffice for `LEAST` draws of each, or where the program takes no
    other value, later sites possibly depend on them. Sites are those of the first run.

    Args:
        program: a model or a guide.
        args, kwargs: what it is called with.
        model: where the program is its guide.
        names: names the arguments of a program that does not.

    Raises:
        UserError: the program does not take the arguments, gives two sites one name, or raises an error.

    Example:
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     scale = pyro.sample("scale", dist.Gamma(2.0, 2.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(0.0, scale), obs=x)
        >>> read(model, [torch.zeros(3)], {}).factors["x"].parents
        ('scale',)
    """
    inputs = inputs_of(program, args, kwargs, names)

    def run(values: Values, tracked: bool = True) -> Reader:
        tracking, replaced = Tracking(), {}
        for name, leaf in inputs.items():
            replaced[id(leaf)] = torch.as_tensor(values.get(name, leaf)).detach().clone()
            for each in (leaf, replaced[id(leaf)]):  # an object in an argument keeps its own
                tracking.tag(each, ("input", name))
        new_args, new_kwargs = tree_map(lambda leaf: replaced.get(id(leaf), leaf), (list(args), dict(kwargs)))
        pyro.set_rng_seed(0)
        reader = Reader(values, tracking, in_words=not values)
        with tracking if tracked else nullcontext(), reader, _kernels(tracking):
            program(*new_args, **new_kwargs)
        return reader

    with no_side_effects():
        try:
            first = run({}, tracked=False)
        except Exception as error:
            kind = "" if isinstance(error, UserError) else f"it raises {type(error).__name__}: "
            raise UserError(f"{_name(program)} cannot be read: {kind}{first_line(error)}") from error
        try:
            reader = run({})
            lost = reader.tracking.lost
        except Exception:  # a program that fails where it is followed: other draws show all
            reader, lost = first, {("input", name): 0 for name in inputs}
            lost |= {("site", name): time for time, name in enumerate(first.sites, 1)}
            for site in first.sites.values():
                site.forget_numbers()  # which may be computed
        lost = {source: time for source, time in lost.items() if source[0] in ("site", "input")}
        possible = _by_draws(lambda values: run(values, reader is not first), reader, inputs, lost)
    return _program(reader, inputs, possible, model)


def _by_draws(
    run: Callable[[Values], Reader], reader: Reader, inputs: Values, lost: Mapping[Source, int]
) -> dict[str, set[Source]]:
    """Add to each site's sources those that other draws show, and return those of which too few were drawn."""
    possible: dict[str, set[Source]] = defaultdict(set)
    if not lost:
        return possible
    draws, names = min(DRAWS, RUNS // len(lost)), list(reader.sites)
    held = inputs | reader.indices | {name: site.msg["value"] for name, site in reader.sites.items()}
    before = run(held).sites
    for (kind, up), time in lost.items():
        most, least = (draws, LEAST) if kind == "site" else (min(draws, OF_ARGUMENTS), 1)
        later, ran = names[time:], 0
        for seed in range(most):
            later = [name for name in later if (kind, up) not in reader.sites[name].sources]
            if not later and seed >= BRANCHES:
                break
            with suppress(Exception):  # not every value may do
                pyro.set_rng_seed(1 + seed)
                value = _another(reader.sites[up].msg["fn"], held[up], seed) if kind == "site" else held[up]
                if value is None:
                    ran = least
                    break
                if isinstance(value, Tensor) and torch.equal(value, held[up]):
                    value = _perturbed(value, seed)
                now = run(held | {up: value}).sites
                ran += 1
                for name in later:
                    if name not in now or _differ(now[name], before[name]):
                        reader.sites[name].add({(kind, up)})
                for name in set(names[time:]) & now.keys():  # another branch has parents of its own
                    reader.sites[name].add(now[name].sources)
        if ran < least:
            for name in later:
                possible[name].add((kind, up))
                reader.sites[name].forget_numbers()
    return possible


def _program(reader: Reader, inputs: Values, possible: Mapping[str, set[Source]], model: Program | None) -> Program:
    """Name what the sites of a run depend on."""
    sites, observes = reader.sites, dict(model.observes) if model else {}
    used = set().union(*(site.sources for site in sites.values()))
    for up in [] if model else [name for name in inputs if ("input", name) not in used]:
        at = [n for n, site in sites.items() if site.observed.origin == ("input", up) and site.kind == "observed"]
        observes |= {up: at[0]} if len(at) == 1 else {}
    order: dict[Source, int] = {
        source: i for i, source in enumerate((*(("input", up) for up in inputs), *(("site", up) for up in sites)))
    }

    def names_of(sources: Collection[Source], site: str) -> tuple[str, ...]:
        """Name sources in the order of the run; an argument by the site that it is observed at, if that is another."""
        names = []
        for kind, up in sorted((source for source in sources if source in order), key=order.__getitem__):
            at, alone = observes.get(up, site), up.removeprefix("input ")
            names.append(up if kind == "site" else at if at != site else up if alone in sites else alone)
        return tuple(name for name in dict.fromkeys(names) if name != site)

    factors: dict[str, Factor] = {}
    for name, site in sites.items():
        sources, origin = set(site.sources), site.observed.origin
        value = site.observed.sources if site.kind == "observed" else frozenset()
        if any(kind == "site" for kind, _ in value):  # data are a function of the value and these parents
            sources |= value - {origin}
        parents, others = names_of(sources, name), names_of(value - {origin}, name)
        data = [origin[1].removeprefix("input ")] if origin else []
        shown, functions = site.shown, site.functions
        for of in functions:
            given = "; ".join(", ".join(part) for part in (names_of(of, name), _owners(of)) if part)
            shown = shown.replace(ARGUMENTS, f"({given})" if given else "", 1)
        if len(shown) > LONGEST:
            shown, functions = site.shown.replace(ARGUMENTS, ""), []
        factors[name] = _factor(
            site,
            parents=parents,
            shown=shown,
            named=names_of(site.named.union(*functions), name),
            possible=tuple(up for up in names_of(possible.get(name, ()), name) if up not in parents),
            learned=tuple(_owners(sources)),
            value=(*data, *others) if others and not site.observed.copied else (),
        )
    factors = _joined_by_guides(factors, sites, model.factors if model else {})
    arguments = {}
    for up in dict.fromkeys(up for factor in factors.values() for up in (*factor.parents, *factor.possible)):
        if up not in factors:
            children = [each for each in factors.values() if up in each.parents]
            plates = model.factors[up].plates if model and up in model.factors else None
            shape = inputs[leaf].shape if (leaf := f"input {up.removeprefix('input ')}") in inputs else ()
            arguments[up] = Factor(up, "input", plates=_plates_of(shape, children) if plates is None else plates)
    totals: Counter[str] = Counter()
    for name, size in reader.sizes.items():
        totals[_owner(name)] += size
    return Program(arguments | factors, dict(totals), observes)


def _owners(sources: Collection[Source]) -> list[str]:
    """Name the parameters, networks and guides among sources."""
    return list(dict.fromkeys(_owner(up) for kind, up in sorted(sources) if kind == "param"))


def _owner(parameter: str) -> str:
    """Name the network, or guide, that a parameter stands in."""
    return parameter.split("$$$")[0].split(".")[0]


def _plates_of(shape: Sequence[int], children: Sequence[Factor]) -> tuple[Plate, ...]:
    """Return the plates that an argument is drawn in: those around all its sites whose sizes its shape has."""
    common = [
        plate for plate, *others in zip(*(each.plates for each in children), strict=False) if {plate} >= set(others)
    ]
    return tuple(itertools.takewhile(lambda plate: plate.size in shape or plate.drawn in shape, common))


def _factor(site: Site, **names: Any) -> Factor:
    msg, kind = site.msg, site.kind
    fn, mask, scale = layers(msg["fn"]), msg["mask"], msg["scale"]
    batch = tuple(getattr(fn[0], "batch_shape", ()))
    kernels = sorted((name for kind, name in site.sources if kind == "kernel"), key=len)
    marks = [f"kernel {name}" for name in kernels[-1:]]  # a sum of kernels is one too
    marks += {
        "observed": ["observed"],
        "improper": ["improper"],
        "uncounted": ["observed, masked: does not count"],
    }.get(kind, [])
    if kind == "deterministic" and bool((torch.as_tensor(getattr(fn[-1], "log_density", 0.0)) != 0).any()):
        marks.append(COUNTS)
    if strategy := msg["infer"].get("enumerate"):
        marks.append(f"enumerated, {strategy}")
    for part in (mask, *(getattr(layer, "_mask", None) for layer in fn)):
        if isinstance(part, Tensor) and kind != "deterministic":
            marks.append(f"masked: {int(part.sum())} of {part.numel()} count")
    if (isinstance(scale, Tensor) or scale != 1.0) and kind != "deterministic":
        marks.append(f"counts {float(torch.as_tensor(scale).mean()):g} times")
    if msg["infer"].get("is_auxiliary") and kind == "latent":
        marks.append("auxiliary")
    marks += [f"one by one in plate {frame.name}" for frame in msg["cond_indep_stack"] if not frame.vectorized]
    plates = []
    for frame in (frame for frame in msg["cond_indep_stack"] if frame.vectorized):
        met = batch[frame.dim] if -frame.dim <= len(batch) else 1
        size = frame.size if frame.size > 0 else met  # a plate may take the size that it meets
        plates.append(Plate(frame.name, max(frame.full_size or 0, size), size))
    return Factor(
        msg["name"],
        kind,
        site.distribution,
        plates=tuple(plates),
        shapes=(batch, tuple(getattr(fn[0], "event_shape", ()))),
        marks=tuple(marks),
        support=to_support(fn[0].support) if kind == "latent" and hasattr(fn[0], "support") else "",
        **names,
    )


def _joined_by_guides(
    factors: dict[str, Factor], sites: Mapping[str, Site], known: Mapping[str, Factor]
) -> dict[str, Factor]:
    """Replace what a guide draws in real numbers, and the sites that are functions of it, by one factor of these sites.

    Automatic guides draw an auxiliary site, and map it to the support of each site, which is a `Delta` then.
    """
    names: dict[str, str] = {}
    for auxiliary, site in sites.items():
        if not site.msg["infer"].get("is_auxiliary") or site.kind != "latent":
            continue
        children = [
            name
            for name, factor in factors.items()
            if auxiliary in factor.parents and factor.kind == "latent" and factor.distribution.startswith("Delta(")
        ]
        names |= dict.fromkeys([auxiliary, *children], ", ".join(children) or auxiliary)
    joint: dict[str, Factor] = {}
    for name, factor in factors.items():
        new = names.get(name, name)
        parents = tuple(dict.fromkeys(up for up in (names.get(up, up) for up in factor.parents) if up != new))
        if new not in joint:
            marks = factor.marks if new == name else tuple(mark for mark in factor.marks if mark != "auxiliary")
            joint[new] = replace(factor, name=new, parents=parents, marks=marks)
        else:
            first = joint[new]
            to_real = known[name].support if name in known else ""
            joint[new] = replace(
                first,
                parents=tuple(dict.fromkeys((*first.parents, *parents))),
                shapes=factor.shapes if new == name else first.shapes,
                marks=first.marks + ((f"{name} by {to_real}",) if to_real else ()),
            )
    return joint


@contextmanager
def _kernels(tracking: Tracking) -> Iterator[None]:
    """Make each kernel of `pyro.contrib.gp` a source of the covariances that it computes."""

    def mark(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if type(module).__module__.startswith("pyro.contrib.gp.kernels") and isinstance(output, Tensor):
            tracking.add(output, {("kernel", kernel(module))})

    hook = register_module_forward_hook(mark)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def no_side_effects() -> Iterator[None]:
    """Restore, afterwards, random states, Pyro's parameters, and what modules change in themselves (batch norm)."""
    kept: dict[int, tuple[Any, Values, list[tuple[Tensor, Tensor]]]] = {}

    def keep(module: torch.nn.Module, inputs: Any) -> None:
        if id(module) not in kept:
            state = {name: copy.copy(v) if isinstance(v, dict | list | set) else v for name, v in vars(module).items()}
            kept[id(module)] = (module, state, [(buffer, buffer.clone()) for buffer in module.buffers(recurse=False)])

    store, random, hook = pyro.get_param_store(), get_rng_state(), register_module_forward_pre_hook(keep)
    try:
        with torch.no_grad(), torch.random.fork_rng(), store.scope(store.get_state()), pyro.validation_enabled(False):
            yield
    finally:
        hook.remove()
        set_rng_state(random)
        for module, state, buffers in kept.values():
            vars(module).clear()
            vars(module).update(state)
            for buffer, value in buffers:
                buffer.data.copy_(value)


def _differ(a: Site, b: Site) -> bool:
    """Whether a site depends on other values in one run than in another, or has another density.

    In plates of another size, what counts is whether the elements in both have other parameters. NaN is a number.
    """
    if a.sources != b.sources:
        return True
    x, y = a.msg["value"], b.msg["value"]
    if a.parameters and isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape != y.shape:
        pairs = zip(a.parameters, b.parameters, strict=False)
        return any(each.ndim != other.ndim or not _same(*_overlap(each, other)) for each, other in pairs)
    whole, others = [*a.density, *a.parameters], [*b.density, *b.parameters]
    return len(whole) != len(others) or not all(map(_same, whole, others))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    both = tuple(slice(min(sizes)) for sizes in zip(a.shape, b.shape, strict=True))
    return a[both], b[both]


def _another(fn: Any, value: Any, seed: int) -> Any:
    """Return each value of a small support in turn, then elements of it at random, however unlikely.

    Of others, return draws, each fourth of them ten times as large. None means that a single element has no further
    value.
    """
    base = layers(fn)[-1]
    if not getattr(base, "has_enumerate_support", False):
        return fn.sample() * (10 if seed % 4 == 3 else 1)
    event = base.event_shape
    support = base.enumerate_support(expand=False).reshape(-1, *event)
    shape = value.shape[: value.ndim - len(event)]
    if seed < len(support) <= DRAWS:
        return support[torch.full(shape, seed)]
    return None if seed >= len(support) and not shape else support[torch.randint(len(support), shape)]


def _perturbed(value: Tensor, seed: int) -> Tensor:
    """Return other values of the same type: of every other sign, by seed, or in another order."""
    if value.is_floating_point() or value.is_complex():
        return (-value if seed % 2 else value) + torch.randn_like(value)
    if value.dtype == torch.bool:
        return ~value
    other = value.flatten()[torch.randperm(value.numel())].reshape(value.shape)
    return value + (-1 if seed % 2 else 1) if torch.equal(other, value) else other
