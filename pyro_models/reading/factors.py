"""The factors of a probabilistic program, each with its parents, read off by running it."""

import copy
import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.ops.provenance import ProvenanceTensor, extract_provenance, get_provenance
from pyro.poutine.util import site_is_subsample
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from pyro_models.base.errors import UserError, first_line
from pyro_models.distributions.layers import layers
from pyro_models.objectives.handlers import Intervene

DRAWS = 20
METADATA = {"__get__", "__len__", "size", "dim", "numel", "is_floating_point"}
OF_SHAPE = {"new_zeros", "new_ones", "new_empty", "new_full", "zeros_like", "ones_like", "empty_like", "full_like"}
Values = dict[str, Any]
Run = Callable[[Values], Intervene]
"""Run a program with the values of some sites and inputs set."""


@dataclass(frozen=True)
class Plate:
    """A vectorised `pyro.plate`: its name, its size, and how many of these a subsample has."""

    name: str
    size: int
    drawn: int


@dataclass(frozen=True)
class Factor:
    """One site of a program, and so one factor of its density, or an argument that sites depend on.

    Attributes:
        name: of the site.
        kind: `latent` or `observed`; `improper`, whose density is masked to a constant; `deterministic` and `factor`
            for `pyro.deterministic` and `pyro.factor`; `input` for an argument.
        distribution: its name and its parameters', as `Normal(loc, scale)`.
        parents: the sites and arguments that the distribution depends on directly.
        plates: those around the site, the outermost first.
        shapes: the batch's and the event's.
        marks: how its density counts: observed, enumerated, masked, scaled, in a sequential plate.
    """

    name: str
    kind: str
    distribution: str = ""
    parents: tuple[str, ...] = ()
    plates: tuple[Plate, ...] = ()
    shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    marks: tuple[str, ...] = ()


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
        deterministic = self.of("deterministic")
        ancestors = [self.given(up) if up in deterministic else [up] for up in self.factors[name].parents]
        return list(dict.fromkeys(itertools.chain(*ancestors)))


class Tagging(TorchFunctionMode):
    """Record which tags of tensors get lost: under `if`, by `.item()`, in numpy, in tensors that are written to.

    What takes only the shape of a tensor, as `zeros_like` does, loses its tag rightly: it depends on no value.

    Attributes:
        lost: the tags that got lost.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lost: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.__name__, kwargs or {}
        tags = get_provenance([args, kwargs])
        if name in OF_SHAPE:
            args, kwargs = (extract_provenance(tagged)[0] for tagged in (args, kwargs))
        result = func(*args, **kwargs)
        if name not in OF_SHAPE | METADATA and (name.endswith("_") or not get_provenance(result)):
            self.lost |= tags
        return result


def inputs_of(program: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Values:
    """Return the tensors that a program is called with, by the names of its arguments: `input x`.

    Raises:
        UserError: the program does not take these arguments.
    """
    function = inspect.unwrap(program)
    signature = inspect.signature(getattr(function, "forward", function))
    try:
        arguments = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise UserError(f"{_name(program)} takes {signature}: {first_line(error)}") from None
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name, {})
    inputs: Values = {}
    for name, value in arguments.items():
        tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
        inputs |= {f"input {name}" + f"[{i}]" * (len(tensors) > 1): leaf for i, leaf in enumerate(tensors)}
    return inputs


def read(
    program: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], model: Program | None = None
) -> Program:
    """Read the factors of a program by running it, with no side effect.

    A site's parents are the sites and arguments that its distribution is computed from, or whose value alone, all
    other sites held as they were, changes its distribution or whether there is such a site. The first are found by
    tagging tensors (Wingate et al., Nonstandard interpretations of probabilistic programs, 2011; Pyro's
    `ProvenanceTensor`), whatever the weights are. Tags are lost under `if`, where a program leaves torch, and where it
    writes in place; the second are found by other draws of each value: `DRAWS` of what lost its tag, one of all else.
    A dependence without tags that none of these draws shows is missed. A program that branches is read as it ran.

    Args:
        program: a model or a guide.
        args, kwargs: what it is called with.
        model: where the program is its guide.

    Raises:
        UserError: the program does not take the arguments, or raises an error.

    Example:
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     scale = pyro.sample("scale", dist.Gamma(2.0, 2.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(0.0, scale), obs=x)
        >>> read(model, [torch.zeros(3)], {}).factors["x"].parents
        ('scale',)
    """
    inputs = inputs_of(program, args, kwargs)

    def run(values: Values) -> Intervene:
        replaced = {id(leaf): values.get(name, leaf) for name, leaf in inputs.items()}
        new_args, new_kwargs = tree_map(lambda leaf: replaced.get(id(leaf), leaf), (list(args), dict(kwargs)))
        pyro.set_rng_seed(0)
        with Intervene(values) as handler:
            program(*new_args, **new_kwargs)
        return handler

    with no_side_effects():
        try:
            first = run({})
            sites = {name: msg for name, msg in first.sites.items() if not site_is_subsample(msg)}
            indices = {name: msg["value"] for name, msg in first.sites.items() if name not in sites}
            held = inputs | {name: torch.as_tensor(msg["value"]) for name, msg in sites.items()}
            again = run(indices | held).sites  # where nothing is drawn, as in what this is compared with
            before = {name: contribution(again[name]) for name in sites}
        except Exception as error:
            kind = type(error).__name__
            raise UserError(f"{_name(program)} cannot be read: it raises {kind}: {first_line(error)}") from error
        tagging = Tagging()
        with tagging:
            parents, observed = _by_tags(run, held, indices, sites)
        draws = {up: DRAWS if up in tagging.lost or not observed else 1 for up in held}
        _by_draws(lambda values: run(indices | values), held, before, sites, parents, draws)
    places = {up: [name for name in sites if up in observed.get(name, ())] for up in inputs}
    observes = model.observes if model else {up: names[0] for up, names in places.items() if len(names) == 1}
    known = model.factors if model else {}
    factors: dict[str, Factor] = {}
    for site, msg in sites.items():
        ups = [_parent_name(up, site, sites, observes) for up in held if up in parents[site] and up != site]
        factors |= {
            up: Factor(up, "input", plates=known[up].plates if up in known else ()) for up in ups if up not in sites
        }
        factors[site] = _factor(msg, tuple(dict.fromkeys(ups)))
    return Program(dict(sorted(factors.items(), key=lambda item: item[0] in sites)), _by_owner(first.sizes), observes)


def _by_owner(sizes: Mapping[str, int]) -> dict[str, int]:
    """Add up the sizes of parameters by the network, or guide, that they stand in."""
    totals: Counter[str] = Counter()
    for name, size in sizes.items():
        totals[name.split("$$$")[0].split(".")[0]] += size
    return dict(totals)


def _by_tags(run: Run, held: Values, indices: Values, sites: Values) -> tuple[dict[str, set[str]], Values]:
    """Return the parents that tags show, and the tags of the values at observed sites."""
    try:
        tagged = {name: ProvenanceTensor(value, frozenset({name})) for name, value in held.items()}
        second = run(indices | tagged).sites
        parents = {name: set(get_provenance(contribution(second[name]))) for name in sites}
        return parents, {name: second[name]["infer"]["_observed_from"] for name in sites}
    except Exception:  # a program that fails with tags: other draws show all
        return {name: set() for name in sites}, {}


def _by_draws(
    run: Run, held: Values, before: Values, sites: Values, parents: dict[str, set[str]], draws: dict[str, int]
) -> None:
    """Add the parents whose value, changed alone, changes what comes later."""
    names = list(sites)
    for up in held:
        later = names[names.index(up) + 1 :] if up in sites else names
        for seed in range(draws[up]):
            if not (unknown := [site for site in later if up not in parents[site]]):
                break
            with suppress(Exception):  # an argument may not take every value
                pyro.set_rng_seed(1 + seed)
                value = sites[up]["fn"].sample() if up in sites else held[up]
                now = run(held | {up: _perturbed(value) if torch.equal(value, held[up]) else value}).sites
                for site in unknown:
                    if site not in now or not _all_equal(contribution(now[site]), before[site]):
                        parents[site].add(up)


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


def contribution(msg: Any) -> list[Tensor]:
    """Return all that a site adds to the density: where two of these differ, so do two distributions."""
    fn = layers(msg["fn"])[-1]
    try:
        density = [fn.log_prob(extract_provenance(msg["value"])[0])]
    except NotImplementedError:  # a distribution that can only be drawn from
        density = [part for part in vars(fn).values() if isinstance(part, Tensor)]
    return [*density, *(torch.as_tensor(msg[name]) for name in ("mask", "scale") if msg[name] is not None)]


def _all_equal(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether two lists hold the same numbers, of which NaN is one."""
    return len(a) == len(b) and all(
        x.shape == y.shape and bool(((x == y) | (x.isnan() & y.isnan())).all()) for x, y in zip(a, b, strict=True)
    )


def _perturbed(value: Tensor) -> Tensor:
    """Return other values of the same type: real numbers with noise added, others in another order."""
    if value.is_floating_point():
        return value + torch.randn_like(value)
    return value.flatten()[torch.randperm(value.numel())].reshape(value.shape) if value.ndim else value + 1


def _parent_name(up: str, site: str, sites: Values, observes: Mapping[str, str]) -> str:
    """Name a parent: an argument by the site that it is observed at, if that is another than this one."""
    if observes.get(up, site) != site:
        return observes[up]
    return up if up.removeprefix("input ") in sites else up.removeprefix("input ")


def _factor(msg: Any, parents: tuple[str, ...]) -> Factor:
    fn, mask, scale, kind = layers(msg["fn"]), msg["mask"], msg["scale"], "latent"
    if msg["infer"].get("_deterministic"):
        kind = "deterministic"
    elif type(fn[-1]).__name__ == "Unit":
        kind = "factor"
    elif mask is False or any(getattr(layer, "_mask", None) is False for layer in fn):
        kind = "improper"
    elif msg["is_observed"]:
        kind = "observed"
    marks = [kind] if kind in ("observed", "improper") else []
    if strategy := msg["infer"].get("enumerate"):
        marks.append(f"enumerated, {strategy}")
    if isinstance(mask, Tensor):
        marks.append(f"masked: {int(mask.sum())} of {mask.numel()} count")
    if isinstance(scale, Tensor) or scale != 1.0:
        marks.append(f"counts {float(torch.as_tensor(scale).mean()):g} times")
    marks += [f"one by one in plate {frame.name}" for frame in msg["cond_indep_stack"] if not frame.vectorized]
    frames = [frame for frame in msg["cond_indep_stack"] if frame.vectorized]
    plates = [Plate(frame.name, frame.full_size or frame.size, frame.size) for frame in frames]
    distribution = f"{type(fn[-1]).__name__}({', '.join(msg['infer']['_parameters'])})"
    shapes = (tuple(fn[0].batch_shape), tuple(fn[0].event_shape))
    return Factor(msg["name"], kind, distribution, parents, tuple(plates), shapes, tuple(marks))


def _name(program: Any) -> str:
    return getattr(inspect.unwrap(program), "__name__", type(program).__name__)
