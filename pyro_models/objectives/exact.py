"""Discrete sites summed out by Pyro's tensor variable elimination: those of the model alone, chains, inner plates."""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Any

import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.traceenum_elbo import _compute_dice_elbo, _compute_model_factors
from pyro.ops.contract import contract_to_tensor
from pyro.ops.rings import LogRing
from pyro.poutine import Trace
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_models.base.errors import UserError, first_line
from pyro_models.objectives.draws import OUTSIDE, check_match, data_plate, layout_of, run_pair
from pyro_models.objectives.handlers import Site
from pyro_models.objectives.programs import Program


def enumerated_elbo(
    model: Program, guide: Program, args: Any, kwargs: Any, particles: int, plate: str | None
) -> tuple[Tensor, Tensor, int]:
    """Return the loss of Pyro's `TraceEnum_ELBO`, minus its value, and the number of data that they are a mean over.

    Each discrete site of finite support is enumerated, in the guide or in the model, unless its own `infer` says
    otherwise.

    Raises:
        UserError: Pyro cannot sum out the sites, for its reason; or one of them is scaled for the loss alone.
    """
    model, guide = config_enumerate(model), config_enumerate(guide)
    layout = layout_of(model, guide, args, kwargs)
    if reasons := [reason for reason in layout.unsummable if reason]:
        raise UserError(reasons[0])
    nesting = layout.nesting
    estimator = TraceEnum_ELBO(num_particles=particles, max_plate_nesting=nesting, strict_enumeration_warning=False)
    elbo, frame = torch.zeros(()), None
    try:
        for model_trace, guide_trace in estimator._get_traces(model, guide, args, kwargs):
            frame = _plate_of(model_trace, guide_trace, plate)
            for name, site in [*_sites(model_trace).items(), *_sites(guide_trace).items()]:
                if site.beta != 1.0 or site.free:
                    raise UserError(
                        f"site {name!r}: enum cannot scale it in the loss alone, as sites are summed out of the model"
                    )
            _check_dependences(model_trace, guide_trace)
            elbo = elbo + _compute_dice_elbo(model_trace, guide_trace) / particles
    except UserError:
        raise
    except Exception as error:  # Pyro's own refusals, and programs that were not written for another dimension
        raise _unsummable(model, guide, args, kwargs, error) from error
    data = 1 if frame is None else frame.full_size or frame.size
    return -elbo / data, elbo.detach() / data, data


def _unsummable(model: Program, guide: Program, args: Any, kwargs: Any, error: Exception) -> UserError:
    """Return the refusal, which names the discrete sites."""
    with torch.no_grad(), torch.random.fork_rng(), poutine.block():
        p, _ = run_pair(model, guide, *args, **kwargs)
    discrete = [name for name, site in p.items() if not site.is_observed and site.fn.has_enumerate_support]
    sites = ", ".join(map(repr, discrete[:5])) + (", ..." if len(discrete) > 5 else "")
    return UserError(
        f"enum: Pyro cannot sum out {sites} ({first_line(error)}): draw them in the guide, with graph or rws"
    )


def summed_log_weights(
    model: Program, guide: Program, args: Any, kwargs: Any, particles: int, hidden: Collection[str], plate: str | None
) -> Tensor:
    """Return log p(x, z) - log q(z | x), with the discrete sites of the model that the guide lacks summed out of p.

    The guide's sites, discrete ones too, are drawn, one particle after the other.

    Returns:
        [particles, data], or [particles, 1] of the whole, nats.

    Raises:
        UserError: Pyro cannot sum out the sites, for its reason; or one is scaled.
    """
    layout = layout_of(model, guide, args, kwargs)
    if layout.unsummable[1]:
        raise UserError(layout.unsummable[1])
    model = EnumMessenger(first_available_dim=-1 - layout.nesting)(
        config_enumerate(poutine.block(model, hide=list(hidden)))
    )
    rows = []
    for _ in range(particles):
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        traces = prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)
        rows.append(_log_weight(*traces, plate, layout.dependent))
    return torch.stack(rows)


def _log_weight(model_trace: Trace, guide_trace: Trace, plate: str | None, dependent: Collection[str]) -> Tensor:
    """The log weight of one draw: [data], or [1] of the whole."""
    frame = _plate_of(model_trace, guide_trace, plate, dependent)
    for trace in (model_trace, guide_trace):
        for name, node in _nodes(trace):
            if frame is not None and frame in node["cond_indep_stack"]:
                node["scale"] = node["scale"] / ((frame.full_size or frame.size) / frame.size)
            if not isinstance(node["scale"], float | int) or node["scale"] != 1:
                raise UserError(f"site {name!r} is scaled: inside importance weights a scale bounds nothing")
        trace.compute_log_prob()
    log_p: OrderedDict[Any, list[Tensor]] = OrderedDict()
    log_q: OrderedDict[Any, list[Tensor]] = OrderedDict()
    try:
        guide_trace.pack_tensors()
        model_trace.pack_tensors(guide_trace.plate_to_symbol)
        _check_dependences(model_trace, guide_trace)
        costs, factors, ordinals, summed, _ = _compute_model_factors(model_trace, guide_trace)
        for tree in (costs, factors):
            for ordinal, terms in tree.items():
                log_p.setdefault(ordinal, []).extend(terms)
        for name, node in _nodes(guide_trace):
            log_q.setdefault(ordinals[name], []).append(node["packed"]["log_prob"])
        kept = frozenset(model_trace.plate_to_symbol[frame.name] if frame is not None and frame.vectorized else ())
        return _contract(log_p, summed, kept) - _contract(log_q, set(), kept)
    except UserError:
        raise
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"the discrete sites of the model cannot be summed out: {first_line(error)}") from error


def _contract(tree: OrderedDict[Any, list[Tensor]], summed: set[str], kept: frozenset[str]) -> Tensor:
    """Sum logarithms over plates that are not kept, and probabilities over some dimensions: [data] or [1]."""
    if not tree:
        return torch.zeros(1)
    terms: list[Any] = [term for each in tree.values() for term in each]
    sizes = {dim: size for term in terms for dim, size in zip(term._pyro_dims, term.shape, strict=True)}
    return contract_to_tensor(tree, summed, target_ordinal=kept, ring=LogRing(dim_to_size=sizes)).reshape(-1)


def _check_dependences(*traces: Trace) -> None:
    """Refuse a site that depends on a discrete one in a plate outside of which it stands; Pyro leaves that unseen."""
    nodes = [each for trace in traces for each in _nodes(trace)]
    for _, discrete in nodes:
        symbol, plates = discrete["infer"].get("_enumerate_symbol"), _plates(discrete)
        for name, node in nodes if symbol else ():
            if symbol in node["packed"]["log_prob"]._pyro_dims and plates - _plates(node):
                raise UserError(OUTSIDE.format(name, (plates - _plates(node)).pop()))


def _plates(node: Any) -> set[str]:
    return {frame.name for frame in node["cond_indep_stack"] if frame.vectorized}


def _plate_of(
    model_trace: Trace, guide_trace: Trace, plate: str | None, dependent: Collection[str] = ()
) -> CondIndepStackFrame | None:
    p, q = _sites(model_trace), _sites(guide_trace)
    check_match({name: site for name, site in p.items() if not site.is_enumerated or name in q}, q)
    return data_plate([*p.items(), *q.items()], plate, dependent)


def _sites(trace: Trace) -> dict[str, Site]:
    return {
        name: Site(
            node["fn"],
            node["value"],
            node["is_observed"],
            node["scale"],
            node["mask"],
            "_enumerate_dim" in infer or "_enum_total" in infer,
            node["cond_indep_stack"],
            infer.get("_beta", 1.0),
            infer.get("is_auxiliary", False),
            free=infer.get("_free", 0.0),
        )
        for name, node, infer in ((name, node, node["infer"]) for name, node in _nodes(trace))
    }


def _nodes(trace: Any) -> Iterable[tuple[str, Any]]:
    """The sample sites of a trace that have a density."""
    return [
        (name, node)
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not node["infer"].get("_deterministic")
    ]
