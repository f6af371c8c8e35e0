"""Each tool applied to a pair, and what comes back held against Pyro's own value, or one computed by hand.

Nothing here reads the code that it measures: the reference is Pyro's estimator of the same kind, or the log-densities
of Pyro's own traces, added up as the definition says.
"""

import contextlib
import inspect
import math
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.inspect import get_dependencies
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from scipy.stats import mannwhitneyu
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

import pyro_models
from pyro_models.objectives import ESTIMATORS
from tests.programs.pair import Pair

ROOM = Path(pyro_models.__file__).parent
WEIGHTED = ("iwae", "renyi", "rws", "dreg")
PARTICLES = 5
"""Of a weighted bound, as the estimators' own default."""
DIRECTIONS = 5
"""Along which the gradients of noisy estimators are compared, at most."""
FEWEST = 20
"""Weights that have to count, for their mean to be held against."""
LIMIT = 5.0
"""Standard errors that two means may lie apart."""


class Outcome(NamedTuple):
    """How a cell of the table came out: `works`, `refused`, `WRONG`, `TRACEBACK` or `slow`, and in which words."""

    kind: str
    words: str = ""


class Wrong(Exception):
    """What a tool returned is not what it is to be."""


class Unlikely(Wrong):
    """Two means lie further apart than chance explains, but not by so much that it could not be chance in one cell."""


class NoReference(Exception):
    """There is nothing to hold a value against; the words say why."""


class Slow(Exception):
    """The time limit was reached."""


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Raise `Slow` after so many seconds of the processor's time; None sets no limit."""
    if not seconds:
        yield
        return

    def stop(*_: Any) -> None:
        raise Slow(f"more than {seconds} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def attempt(measure: Callable[[], str], seconds: int | None = None) -> Outcome:
    """Run a measurement, and say how it came out.

    A refusal is an error that a file of the project raises itself, on purpose: a ValueError, whose words are kept. An
    error that comes up from torch or Pyro is a traceback, whatever its type.
    """
    try:
        with limited(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Outcome("works", measure())
    except Wrong as error:
        return Outcome("WRONG", str(error))
    except Slow as error:
        return Outcome("slow", str(error))
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        words = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        raised_by_us = bool(frames) and ROOM in Path(frames[-1].filename).parents
        if isinstance(error, ValueError) and raised_by_us:
            return Outcome("refused", words)
        ours = [frame for frame in frames if ROOM in Path(frame.filename).parents]
        where = f" [{Path(ours[-1].filename).name}:{ours[-1].lineno}]" if ours else " [outside the project]"
        return Outcome("TRACEBACK", words + where)


def names_a_site(words: str, bench: "Bench") -> bool:
    """Whether the words of a refusal name a site, an argument or a plate of the pair."""
    try:
        arguments = set(inspect.signature(bench.pair.model).parameters)
    except (TypeError, ValueError):
        arguments = set()
    sites = {name for trace in (bench.trace, bench.guided) for name in trace.nodes}
    return any(f"'{name}'" in words or f"`{name}`" in words for name in sites | arguments | set(bench.pair.kwargs))


class DetachDraws(Messenger):
    """Cut every latent draw off from the parameters that it was drawn with."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and isinstance(msg["value"], Tensor) and msg["value"].requires_grad:
            msg["value"] = msg["value"].detach()


@dataclass
class Bench:
    """A pair with the references that its measurements share, each computed when it is first needed.

    Attributes:
        pair: whose parameters are made by then.
        draws: of each estimator where values are compared in expectation.
        thorough: whether gradients are compared in expectation too, and not only at the same seed, and replicates with
            those of Pyro's `Predictive`.
    """

    pair: Pair
    draws: int = 60
    thorough: bool = True
    tables: dict[Any, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        pyro.set_rng_seed(0)
        pair, seen = self.pair, {}
        hook = register_module_forward_pre_hook(lambda module, _: seen.setdefault(id(module), module) and None)
        with poutine.trace(param_only=True) as captured:
            guided = poutine.trace(pair.guide).get_trace(*pair.args, **pair.kwargs)
            self.trace = poutine.trace(poutine.replay(pair.model, trace=guided)).get_trace(*pair.args, **pair.kwargs)
        hook.remove()
        self.modules = list(seen.values())
        self.guided = guided
        self.nodes = list(captured.trace.nodes.values())
        self.missing = [name for name in latents(self.trace) if name not in guided.nodes]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put every module that a run of the pair calls in evaluation mode."""
        modes = [(module, module.training) for module in self.modules]
        for module, _ in modes:
            module.training = False
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode

    # -- the pair ------------------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> list[Tensor]:
        """Every parameter that a run of the pair meets, unconstrained, as Pyro's optimisers take them."""
        unique: dict[int, Tensor] = {}
        for node in self.nodes:
            parameter = pyro.param(node["name"]) if node["name"] in pyro.get_param_store() else node["value"]
            value = parameter.unconstrained() if hasattr(parameter, "unconstrained") else parameter
            if value.requires_grad:
                unique[id(value)] = value
        return list(unique.values())

    @cached_property
    def directions(self) -> list[list[Tensor]]:
        """Random directions of length 1, one within each of the first parameters and one in the space of all."""
        generator, parameters = torch.Generator().manual_seed(1), self.parameters
        made = []
        for chosen in [*({k} for k in range(min(DIRECTIONS - 1, len(parameters)))), {*range(len(parameters))}]:
            parts = [
                torch.randn(p.shape, generator=generator, dtype=p.dtype) * (k in chosen)
                for k, p in enumerate(parameters)
            ]
            length = math.sqrt(sum(float(part.square().sum()) for part in parts)) or 1.0
            made.append([part / length for part in parts])
        return made

    def gradient(self, loss: Tensor) -> list[Tensor]:
        """Differentiate a loss by every parameter; 0 where it does not depend on one."""
        if not self.thorough and not loss.requires_grad:
            return []
        parameters = self.parameters
        if not parameters or not loss.requires_grad:
            return [torch.zeros_like(parameter) for parameter in parameters]
        found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    def along(self, gradient: list[Tensor]) -> list[float]:
        """The components of a gradient along the directions; none where gradients are not compared."""
        if not self.thorough:
            return []
        return [sum(float((g * d).sum()) for g, d in zip(gradient, way, strict=True)) for way in self.directions]

    @cached_property
    def drawn_subsample(self) -> bool:
        """Whether a plate of the pair draws a subsample, another one in each run."""
        subsamples = [s for t in (self.trace, self.guided) for s in t.nodes.values() if site_is_subsample(s)]
        if all(site["value"].tolist() == [*range(site["fn"].size)] for site in subsamples):
            return False
        drawn: list[dict[str, list[int]]] = []
        for seed in range(4):
            pyro.set_rng_seed(seed)
            with self.evaluating():
                trace = poutine.trace(self.pair.guide).get_trace(*self.pair.args, **self.pair.kwargs)
                trace = poutine.trace(poutine.replay(self.pair.model, trace=trace)).get_trace(
                    *self.pair.args, **self.pair.kwargs
                )
            sites = [site for site in trace.nodes.values() if site["type"] == "sample" and site_is_subsample(site)]
            drawn.append({site["name"]: site["value"].tolist() for site in sites})
        return any(each != drawn[0] for each in drawn)

    @property
    def scored(self) -> bool:
        """Whether a latent site of the guide is drawn without a path for the gradient."""
        return any(scored(site) for site in latents(self.guided).values())

    @property
    def ordered(self) -> bool:
        """Whether Pyro's closed forms are right here: the guide draws the model's latents alone, in their order."""
        return list(latents(self.guided)) == list(latents(self.trace)) and not any(
            map(is_fixed, latents(self.guided).values())
        )

    @property
    def frame(self) -> Any:
        """The outermost plate around every latent and every observed site, a loop or not; None where there is none."""
        sites = [site for site in [*counted(self.trace).values(), *counted(self.guided).values()] if not is_fixed(site)]
        stacks = [site["cond_indep_stack"] for site in sites]
        if not stacks:
            return None
        common = [f for f in stacks[0] if all(f.name in [g.name for g in stack] for stack in stacks)]
        return common[0] if common else None

    @property
    def size(self) -> int:
        """The number of data in that plate's subsample, or 1: a plate without a size takes that of what is in it."""
        if self.frame is None:
            return 1
        if self.frame.size > 0:
            return self.frame.size
        return max(extent(site, self.frame) for site in counted(self.trace).values())

    # -- Pyro's own ----------------------------------------------------------------------------------------------------

    def pyros(self, kind: str) -> Any:
        """Return Pyro's estimator of a kind, and the pair as that takes it."""
        pair, nesting = self.pair, {} if self.pair.nesting is None else {"max_plate_nesting": self.pair.nesting}
        if kind == "enum" or self.missing:
            model, guide = pair.model, pair.guide
            if any(can_enumerate(site) and not asks(site) for site in latents(self.guided).values()):
                guide = config_enumerate(guide)
            if any(can_enumerate(self.trace.nodes[name]) and not asks(self.trace.nodes[name]) for name in self.missing):
                model = config_enumerate(model)
            return TraceEnum_ELBO(strict_enumeration_warning=False, **nesting), model, guide
        classes = {"mean-field": TraceMeanField_ELBO, "graph": TraceGraph_ELBO}
        return classes.get(kind, Trace_ELBO)(**nesting), pair.model, pair.guide

    def pyro_once(self, kind: str, seed: int, gradients: bool = True) -> tuple[float, list[Tensor]]:
        """Return the loss of Pyro's estimator of the whole, nats, and its gradient."""
        estimator, model, guide = self.pyros(kind)
        parameters = self.parameters
        for parameter in parameters:
            parameter.grad = None
        pyro.set_rng_seed(seed)
        with poutine.block(), torch.set_grad_enabled(gradients):
            compute = estimator.loss_and_grads if gradients else estimator.loss
            loss = float(compute(model, guide, *self.pair.args, **self.pair.kwargs))
        gradient = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        return loss, gradient

    @cached_property
    def pyro_table(self) -> Tensor:
        """Losses of the whole and gradients along the directions, of many draws of Pyro's estimator: [draws, 1 + d]."""
        return self.pyro_draws(self.draws, 1000)

    def pyro_draws(self, draws: int, start: int) -> Tensor:
        baselines = any("baseline" in site["infer"] for site in latents(self.guided).values())  # which it trains, too
        kind = "enum" if self.missing else "graph" if self.scored and not baselines else "trace"
        rows = [self.pyro_once(kind, start + draw, self.thorough) for draw in range(draws)]
        return torch.tensor([[loss, *self.along(gradient)] for loss, gradient in rows], dtype=torch.float64)

    # -- by hand -------------------------------------------------------------------------------------------------------

    def weigh(self, seed: int, *, detached: bool = False) -> tuple[Tensor, Tensor]:
        """Draw once, and return log p(x, z) and log q(z | x) of each datum, or of the whole, nats."""
        pair, frame = self.pair, self.frame
        pyro.set_rng_seed(seed)
        with poutine.block():
            with DetachDraws() if detached else contextlib.nullcontext():  # outside the trace, which it comes before
                q = poutine.trace(pair.guide).get_trace(*pair.args, **pair.kwargs)
            p = poutine.trace(poutine.replay(pair.model, trace=q)).get_trace(*pair.args, **pair.kwargs)
        return tuple(torch.as_tensor(joint(each, frame, self.size)) for each in (p, q))  # type: ignore[return-value]

    def weighable(self) -> None:
        """Refuse a pair whose log-densities by hand are no importance weights.

        Raises:
            NoReference: sites are summed out, or scaled beside the subsample of the data, which each run draws anew.
        """
        if self.drawn_subsample:
            raise NoReference("each run takes another subsample")
        if self.missing:
            raise NoReference(f"{self.missing} are not in the guide")
        scales = {scale_of(site, self.frame) for each in (self.trace, self.guided) for site in counted(each).values()}
        if scales != {1.0}:
            raise NoReference(f"sites are scaled by {sorted(scales)}")

    def weighted(self, name: str, draws: int, start: int, gradients: bool) -> Tensor:
        """Losses of a weighted bound and gradients along the directions, by hand: [draws, 1 or 1 + d]."""
        detached = gradients and name == "rws"
        names = ("rws",) if detached else ("iwae", "renyi") if gradients else ("iwae", "renyi", "rws")
        if (key := ("iwae" if name == "dreg" else name, draws, start)) not in self.tables:
            rows: dict[str, list[list[float]]] = {each: [] for each in names}
            for draw in range(draws):
                seeds = range(start + draw * PARTICLES, start + (draw + 1) * PARTICLES)
                with contextlib.nullcontext() if gradients else torch.no_grad():
                    runs = [self.weigh(seed, detached=detached) for seed in seeds]
                    log_p, log_q = (torch.stack([run[k].reshape(-1) for run in runs]) for k in (0, 1))
                    for each in names:
                        value, loss = weighted_loss(each, log_p, log_q)
                        rows[each].append([float(value), *(self.along(self.gradient(loss)) if gradients else [])])
            self.tables |= {(each, *key[1:]): torch.tensor(rows[each], dtype=torch.float64) for each in names}
        return self.tables[key]

    @cached_property
    def log_weights(self) -> Tensor:
        """log p(x, z) - log q(z | x) at many draws: [draws * particles, n]."""
        with torch.no_grad():
            rows = [self.weigh(5000 + draw) for draw in range(self.draws * PARTICLES)]
        return torch.stack([(p - q).reshape(-1) for p, q in rows]).double()


def weighted_loss(name: str, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Return minus the bound of each draw's particles, and what has its gradient: from [particles, n] each."""
    alpha = 0.5 if name == "renyi" else 0.0
    power = (1 - alpha) * (log_p - log_q)
    value = -((power.logsumexp(0) - math.log(len(power))) / (1 - alpha)).mean()
    if name == "rws":
        return value, -((log_p - log_q).detach().softmax(0) * (log_p + log_q)).sum(0).mean()
    return value, value


def joint(trace: Any, frame: Any, size: int) -> Tensor:
    """Return the log-density of a trace for each datum: [size], by the index, or the turn, of the frame's plate.

    Masks count, the scale of a subsample does not; what stands outside the plate, as the Deltas of a guide, is shared.
    """
    total = torch.zeros(size)
    for site in counted(trace).values():
        value = site["fn"].log_prob(site["value"])
        if site["mask"] is False:
            continue
        if site["mask"] is not None and site["mask"] is not True:
            value = torch.where(site["mask"], value, value.new_zeros(()))
        around = [f for f in site["cond_indep_stack"] if frame is not None and f.name == frame.name]
        if around and around[0].vectorized:
            shape = torch.broadcast_shapes(value.shape, (size,) + (1,) * (-frame.dim - 1))
            total = total + value.expand(shape).movedim(frame.dim, 0).reshape(size, -1).sum(-1)
        elif around:
            turn = torch.arange(size) == (around[0].counter - frame.counter) % size
            total = total + torch.where(turn, value.sum(), 0.0)
        else:
            total = total + value.sum() / size
    return total


def extent(site: Any, frame: Any) -> int:
    """How long the log-density of a site is along the plate of a frame."""
    shape = site["fn"].log_prob(site["value"]).shape
    return shape[frame.dim] if len(shape) >= -frame.dim else 1


def scale_of(site: Any, frame: Any) -> float:
    """What multiplies the log-density of a site, beside the subsample of the data's plate."""
    scale = float(torch.as_tensor(site["scale"]).double().mean())
    for f in site["cond_indep_stack"]:
        if frame is not None and f.name == frame.name and f.full_size and f.size > 0:
            scale = scale / (f.full_size / f.size)
    return round(scale, 9)


def counted(trace: Any) -> dict[str, Any]:
    """The sites of a trace whose densities count: all but the subsamples of plates."""
    return {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and not site_is_subsample(s)}


def latents(trace: Any) -> dict[str, Any]:
    return {name: site for name, site in counted(trace).items() if not site["is_observed"]}


def observed(trace: Any) -> dict[str, Any]:
    """The sites that hold data: not those of which a mask leaves nothing in."""
    sites = {n: s for n, s in counted(trace).items() if s["is_observed"] and not is_fixed(s)}
    return {n: s for n, s in sites.items() if s["mask"] is None or bool(torch.as_tensor(s["mask"]).any())}


def is_masked(site: Any) -> bool:
    fn, masks = site["fn"], [site["mask"]]
    while hasattr(fn, "base_dist"):
        masks.append(getattr(fn, "_mask", None))
        fn = fn.base_dist
    return any(mask is not None for mask in masks)


def is_fixed(site: Any) -> bool:
    """Whether a site has no noise: `pyro.deterministic`, `pyro.factor`, a Delta."""
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return type(fn).__name__ in ("Delta", "Unit")


def can_enumerate(site: Any) -> bool:
    return bool(site["fn"].has_enumerate_support) and not site["is_observed"]


def asks(site: Any) -> bool:
    return site["infer"].get("enumerate") is not None


def scored(site: Any) -> bool:
    return not getattr(site["fn"], "has_rsample", False)


def agree(ours: Tensor, reference: Tensor, what: str) -> str:
    """Hold the mean of one table of draws against that of another: [draws, columns], the first the value.

    Raises:
        Wrong: a column's means lie further apart than chance explains.
    """
    means, others = ours.mean(0), reference.mean(0)
    error = (ours.var(0) / len(ours) + reference.var(0) / len(reference)).sqrt()
    error = error + 1e-6 * (1 + others.abs())
    apart = (means - others) / error
    worst = int(apart.abs().argmax()) if bool(apart.isfinite().all()) else 0
    if not bool(apart.isfinite().all()) or float(apart.abs().max()) > LIMIT:
        name = "value" if worst == 0 else "gradient"
        far = not bool(apart.isfinite().all()) or float(apart.abs().max()) > 4 * LIMIT
        raise (Wrong if far else Unlikely)(
            f"{name} {float(means[worst]):.5g}, {what} {float(others[worst]):.5g} +- {float(error[worst]):.2g}"
        )
    return "in expectation"


def estimator(bench: Bench, name: str) -> str:
    """Hold an estimator of ours against Pyro's of the same kind, or the bound by hand: value and gradient.

    Returns:
        how they were compared: `equal` at the same seed, `in expectation`, or that there is no reference.

    Raises:
        Wrong: they differ.
    """
    estimate, pair = ESTIMATORS[name], bench.pair

    def once(seed: int) -> tuple[Tensor, int]:
        pyro.set_rng_seed(seed)
        terms = estimate(pair.model, pair.guide, *pair.args, **pair.kwargs)
        return terms["loss"], data_of(terms, bench)

    loss, data = once(1000)
    if loss.shape or not bool(loss.isfinite()):
        with contextlib.suppress(Exception):
            if float(loss) == bench.pyro_once(name, 1000)[0]:
                return "as infinite as Pyro's"
        raise Wrong(f"the loss is {loss}")
    enumerable = all(map(can_enumerate, latents(bench.guided).values()))
    noiseless = name in ("trace", *WEIGHTED) or (name == "enum" and enumerable)  # a closed form leaves noise elsewhere
    if pair.exact and pair.log_p is not None and noiseless:
        whole = float(pair.log_p.sum())
        if abs(float(loss) * data + whole) > 1e-6 * (1 + abs(whole)):
            raise Wrong(f"at the posterior it is {-float(loss) * data:.5g}, log p is {whole:.5g}")
        if not bench.thorough:
            return "closed form"
    if name in WEIGHTED:
        return _weighted(bench, name, once, data)
    gradient, kind = bench.gradient(loss), "mean-field" if name == "graph" and not bench.scored else name
    try:
        theirs, their_gradient = bench.pyro_once(kind, 1000)
    except Exception as error:
        why = f"Pyro's raises {type(error).__name__}: {error}"[:150]
        if name == "enum" and any(map(asks, latents(bench.guided).values())):  # it may run in no other way
            return f"no reference: {why}"
    else:
        same = close(float(loss) * data, theirs) and all(map(close, (g * data for g in gradient), their_gradient))
        if (same and name in ("trace", "enum")) or (same and kind == "mean-field" and bench.ordered):
            return "equal"
        why = ""
    try:
        reference = bench.pyro_table
    except Exception as error:
        return f"no reference: {why or error}"

    def row(seed: int) -> list[float]:
        with torch.set_grad_enabled(bench.thorough):
            loss, data = once(seed)
        return [float(loss) * data, *(data * g for g in bench.along(bench.gradient(loss)))]

    ours = torch.tensor([row(2000 + draw) for draw in range(bench.draws)], dtype=torch.float64)
    try:
        return agree(ours, reference, "Pyro's")
    except Unlikely:  # chance has many cells to strike in: not twice in the same, with four times the draws
        ours = torch.tensor([row(20_000 + draw) for draw in range(4 * bench.draws)], dtype=torch.float64)
        return agree(ours, bench.pyro_draws(4 * bench.draws, 30_000), "Pyro's")


def close(ours: Any, theirs: Any) -> bool:
    return torch.allclose(torch.as_tensor(ours), torch.as_tensor(theirs).to(torch.as_tensor(ours)), 1e-6, 1e-8)


def data_of(terms: Any, bench: Bench) -> int:
    """The number of data that a loss was divided by: as the terms say, else the length of the data's plate."""
    given = getattr(terms, "data", None)
    if given is not None:
        return int(given)
    return bench.size


def _weighted(bench: Bench, name: str, once: Callable[[int], tuple[Tensor, int]], data: int) -> str:
    try:
        bench.weighable()
    except NoReference as error:
        return f"no reference: {error}"
    n, frame = bench.size, bench.frame
    if frame is not None and n > 1 and data == 1:
        raise Wrong(f"it is the joint bound, though each of {n} data has its own in plate {frame.name!r}")
    if data not in (n, getattr(frame, "full_size", n) or n):
        raise Wrong(f"it is divided by {data} data, and they are {n}")
    gradients = bench.thorough and bool(bench.parameters) and (name == "rws" or not bench.scored)

    def ours(draws: int, start: int) -> Tensor:
        with torch.set_grad_enabled(gradients):
            losses = [once(start + draw)[0] for draw in range(draws)]
        return torch.tensor(
            [[float(loss), *(bench.along(bench.gradient(loss)) if gradients else [])] for loss in losses],
            dtype=torch.float64,
        )

    words = "in expectation" if gradients else "in expectation, gradient unchecked"
    try:
        agree(ours(bench.draws, 2000), bench.weighted(name, bench.draws, 9000, gradients), "by hand")
    except Unlikely:  # as for the others
        more = 4 * bench.draws
        agree(ours(more, 20_000), bench.weighted(name, more, 90_000, gradients), "by hand")
    return words


# -- the other tools ---------------------------------------------------------------------------------------------------


def data_for(pair: Pair) -> Any:
    """What the tools take as `data`: the keyword arguments, or the positional ones; by name where there are both."""
    if not pair.args:
        return dict(pair.kwargs)
    if not pair.kwargs:
        return pair.args
    return dict(inspect.signature(pair.model).bind(*pair.args, **pair.kwargs).arguments)


def story(bench: Bench) -> str:
    """Hold the latent parents that the story shows against those of Pyro's `get_dependencies`.

    It does not follow what is computed from an observed value, so that observed parents are left out on both sides.
    """
    from pyro_models.reading import story as tell

    pair = bench.pair
    told = tell(pair.model, *pair.args, guide=pair.guide, **pair.kwargs)
    for formula in told.factorisation:
        str(formula)
    model = next(iter(told.programs.values()))
    try:
        graph = get_dependencies(pair.model, pair.args, dict(pair.kwargs))["prior_dependencies"]
    except Exception as error:
        return f"no reference: get_dependencies raises {type(error).__name__}"
    for site, parents in graph.items():
        if site not in model.factors:
            raise Wrong(f"site {site!r} is missing")
        theirs = {up for up in parents if up != site and not bench.trace.nodes[up]["is_observed"]}
        ours = {up for up in model.given(site) if up in graph and not bench.trace.nodes[up]["is_observed"]}
        lost = [up for up in sorted(theirs - ours) if depends(bench, site, up)]
        false = [up for up in sorted(ours - theirs) if not depends(bench, site, up)]
        if lost or false:
            raise Wrong(f"{site!r} lacks the parents {lost}" if lost else f"{site!r} has the false parents {false}")
    return "as get_dependencies"


def depends(bench: Bench, site: str, up: str, draws: int = 20) -> bool:
    """Whether another value of one latent site, all others held, changes the density of another or takes it away."""
    model = bench.pair.model
    for _ in range(draws):
        held = bench.trace.copy()
        for name, msg in latents(held).items():
            held.nodes[name] = msg | {"value": msg["fn"].sample() if name == up else msg["value"]}
        try:
            with torch.no_grad():
                now = poutine.trace(poutine.replay(model, trace=held)).get_trace(*bench.pair.args, **bench.pair.kwargs)
                before, after = (
                    density(each.nodes[site], bench.trace.nodes[site]["value"]) for each in (bench.trace, now)
                )
        except Exception:  # no such site any more, or a value that it cannot take
            return True
        if before.shape != after.shape or not torch.equal(before.nan_to_num(), after.nan_to_num()):
            return True
        seen = [torch.as_tensor(each.nodes[site]["value"]) for each in (bench.trace, now)]  # an observed one, computed
        if bench.trace.nodes[site]["is_observed"] and not torch.equal(*seen):
            return True
    return False


def density(site: Any, value: Any) -> Tensor:
    """What a site adds at a value, under its mask and its scale."""
    result = site["fn"].log_prob(site["value"] if site["is_observed"] else value) * torch.as_tensor(site["scale"])
    return result if site["mask"] is None else torch.where(torch.as_tensor(site["mask"]), result, 0.0)


def statistics_for(bench: Bench) -> dict[str, dict[str, Callable[[Tensor], Tensor]]]:
    """Two numbers for each observed site: the mean of squares, and a sum with weights of their own for each entry."""

    def square(x: Tensor) -> Tensor:
        return x.double().square().mean()

    def weighted(x: Tensor) -> Tensor:
        return (x.double() * torch.linspace(1, 2, x.numel(), dtype=torch.float64).reshape(x.shape)).sum()

    return {name: {"square": square, "weighted": weighted} for name in observed(bench.trace)}


def check(bench: Bench, replicates: int = 40) -> str:
    """Hold the posterior replicates' statistics against those of Pyro's `Predictive` on the unconditioned model.

    Those of a site with a mask are not compared, as ours hold the data where it leaves them out; nor those given
    latents that the guide lacks, which `Predictive` draws from the prior.
    """
    from pyro_models.checking import check as checks_of

    pair, statistics = bench.pair, statistics_for(bench)
    found = checks_of(pair.model, pair.guide, data_for(pair), statistics, replicates=replicates, prior=bench.thorough)
    if not found:
        if statistics:
            raise Wrong("no check at all")
        return "nothing is observed"
    free = poutine.uncondition(pair.model)
    try:
        if bench.missing or not bench.thorough:
            raise NoReference
        with torch.no_grad(), bench.evaluating():
            pyro.set_rng_seed(3)
            drawn = Predictive(free, guide=pair.guide, num_samples=replicates)(*pair.args, **pair.kwargs)
    except Exception as error:
        drawn, why = {}, f"no reference: Predictive raises {type(error).__name__}"
    else:
        why = "as Predictive"
    for each in found:
        ours = each.replicated.get("posterior", torch.empty(0)).double()
        many = each.site in observed(bench.trace) and bench.trace.nodes[each.site]["value"].numel() > 3
        same = len(ours) > 1 and many and each.statistic == "weighted" and bool((ours == each.observed).all())
        masked = is_masked(bench.trace.nodes[each.site])
        if masked or each.site not in drawn or each.statistic not in statistics.get(each.site, {}):
            if same and not masked:
                raise Wrong(f"every replicate of {each.site!r} equals the data")
            continue
        theirs = torch.stack([statistics[each.site][each.statistic](draw) for draw in drawn[each.site]])
        if same and not bool((theirs == each.observed).all()):
            raise Wrong(f"every replicate of {each.site!r} equals the data")
        p = (
            float(mannwhitneyu(ours.numpy(), theirs.numpy()).pvalue)
            if len({*ours.tolist(), *theirs.tolist()}) > 1
            else 1.0
        )
        if p < 1e-5:
            raise Wrong(
                f"{each.statistic} of {each.site!r} has median {float(ours.median()):.4g}, Predictive's "
                f"{float(theirs.median()):.4g}, p {p:.1g}"
            )
    return why


def calibrate(bench: Bench) -> str:
    """Rank simulated latents among the guide's draws; of an exact guide, all ranks must be equally likely.

    Of latents that data share there are too few simulations here to tell: that is tested elsewhere.
    """
    from pyro_models.checking import calibrate as ranks_of

    pair = bench.pair
    before = [parameter.detach().clone() for parameter in bench.parameters]
    ranks = ranks_of(pair.model, pair.guide, data_for(pair), draws=19, simulations=3 if bench.thorough else 1, steps=5)
    if not ranks:
        raise Wrong("no ranks at all")
    for each in ranks:
        if not bool(((each.values >= 0) & (each.values <= each.draws)).all()):
            raise Wrong(f"ranks of {each.latent} out of 0 to {each.draws}")
        if pair.exact and "amortised" in pair.tags and each.p < 1e-6:
            raise Wrong(f"the guide is the posterior, and the ranks of {each.latent} have p = {each.p:.1g}")
    if not all(map(torch.equal, before, bench.parameters)):
        raise Wrong("it leaves other parameters behind")
    return f"{len(ranks)} latents"


def log_likelihood(bench: Bench) -> str:
    """Hold the evidence against its closed form, or an estimate by hand."""
    pair, samples = bench.pair, 5 * bench.draws
    value = pyro_models.log_likelihood(pair.model, pair.guide, data_for(pair), samples=samples).double()
    if not bool(value.isfinite().all()):
        raise Wrong("it is not finite")
    if pair.exact and pair.log_p is not None:
        if not torch.allclose(value.sum(), pair.log_p.double().sum(), 1e-6, 1e-6):
            raise Wrong(f"{float(value.sum()):.5g} in all, and log p is {float(pair.log_p.sum()):.5g}")
        return "closed form"
    try:
        bench.weighable()
    except NoReference as error:
        return f"no reference: {error}"
    if value.numel() != bench.size:
        raise Wrong(f"{value.numel()} values, where the data are {bench.size}")
    if (s := bench.draws * PARTICLES) < FEWEST:
        return f"no reference: {s} weights are too few"
    weights = bench.log_weights
    effective = (2 * weights.logsumexp(0) - (2 * weights).logsumexp(0)).exp()
    if float(effective.min()) < FEWEST:
        return f"no reference: of {s} weights {float(effective.min()):.0f} count"
    by_hand = weights.logsumexp(0) - math.log(s)
    error = ((s / effective - 1) / s).sqrt()
    error = float(((error**2) * (1 + s / samples)).sum().sqrt()) + 1e-6 * (1 + float(by_hand.sum().abs()))
    apart = float(value.sum() - by_hand.sum())
    if abs(apart) > LIMIT * error + 0.05:
        raise Wrong(f"{float(value.sum()):.5g} in all, by hand {float(by_hand.sum()):.5g} +- {error:.2g}")
    return "by hand"


def arviz(bench: Bench) -> str:
    """Hold the groups of `as_arviz` against each other and the pair: replicates are drawn, log-densities add up."""
    from pyro_models.checking import as_arviz

    pair = bench.pair
    draws = 6 if bench.thorough else 2
    groups = as_arviz(pair.model, pair.guide, data_for(pair), draws=draws, prior=bench.thorough)
    for name, site in observed(bench.trace).items():
        seen, drawn = groups["observed_data"], groups["posterior_predictive"]
        if name not in seen or name not in drawn:
            raise Wrong(f"site {name!r} is missing")
        values, replicas = torch.as_tensor(seen[name].values).double(), torch.as_tensor(drawn[name].values).double()
        if values.numel() > 3 and float(site["value"].double().var()) > 0 and bool((replicas == values).all()):
            raise Wrong(f"every replicate of {name!r} equals the data")
    missing = [name for name in latents(bench.trace) if name not in groups["posterior"] and name not in bench.missing]
    if missing:
        raise Wrong(f"posterior lacks {missing}")
    return densities(bench, groups)


def densities(bench: Bench, groups: Any) -> str:
    """Hold the log-likelihoods of the first posterior draw against those of the model at that draw."""
    pair, sites = bench.pair, latents(bench.trace)
    if "log_likelihood" not in groups or bench.missing:
        return "no reference: no log-likelihood at a draw of every latent site"
    if bench.drawn_subsample:
        return "no reference: each run takes another subsample"
    values = {name: torch.as_tensor(groups["posterior"][name].values)[0, 0] for name in sites}
    values = {
        name: value.reshape(sites[name]["value"].shape).to(sites[name]["value"]) for name, value in values.items()
    }
    conditioned = poutine.trace(poutine.condition(pair.model, values)).get_trace
    with torch.no_grad(), bench.evaluating():
        trace, again = (conditioned(*pair.args, **pair.kwargs) for _ in range(2))
    for name in observed(bench.trace):
        theirs, other = (each.nodes[name]["fn"].log_prob(each.nodes[name]["value"]).nansum() for each in (trace, again))
        if theirs != other:
            return f"no reference: the density of {name!r} is drawn"
        site = trace.nodes[name]
        ours = torch.as_tensor(groups["log_likelihood"][name].values)[0, 0].nansum()
        if not torch.allclose(ours, theirs.to(ours), 1e-4, 1e-4) and site["mask"] is None:
            raise Wrong(f"log-likelihood of {name!r} {float(ours):.5g}, at that draw it is {float(theirs):.5g}")
    return "log-likelihoods at a draw"


TOOLS: dict[str, Callable[[Bench], str]] = {
    "story": story,
    "check": check,
    "calibrate": calibrate,
    "log_likelihood": log_likelihood,
    "arviz": arviz,
}
"""By name, what measures each tool but the estimators."""


def measures(bench: Bench) -> Mapping[str, Callable[[], str]]:
    """Return the measurements of a pair by name: each estimator's, and each tool's."""
    cells: dict[str, Callable[[], str]] = {name: lambda name=name: estimator(bench, name) for name in ESTIMATORS}
    return cells | {name: lambda tool=tool: tool(bench) for name, tool in TOOLS.items()}


__all__ = ["Bench", "Outcome", "Pair", "attempt", "measures", "replace"]
