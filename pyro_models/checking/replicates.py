"""Replicated data, drawn from a model; never the data themselves."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyro.distributions import Delta, Independent, MaskedDistribution, Unit
from pyro.distributions.hmm import HiddenMarkovModel
from pyro.infer import infer_discrete
from pyro.poutine import infer_config
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from pyro_models.base.errors import UserError, first_line
from pyro_models.objectives import Arguments, Program, arguments
from pyro_models.objectives.draws import common_plate, draws_nothing, reads_other_rows

Guide = Program | Mapping[str, Tensor] | None
"""What gives latents: a guide; values of all latent sites by name, as of one draw of an MCMC; None is the prior."""
Plates = tuple[Any, ...]
"""The frames (`cond_indep_stack`) of the plates around a site that have a dimension, outermost first."""


class Replicate(NamedTuple):
    """One replicated data set.

    Attributes:
        drawn: by observed site, data drawn from p(x | z), never its mean. Where the data are missing (NaN), or a mask
            leaves them out, it holds the data's own values: no statistic differs by them.
        latents: by latent site, the values that they were drawn given.
        observed: by observed site, the data.
        likelihood: by observed site, the distribution that its replicate was drawn from.
        counted: by observed site where a mask leaves some out, whether the log-density of each entry of its batch
            shape counts.
        deterministic: by site, what `pyro.deterministic` and reparameterisations computed.
        plates: by site, drawn or latent, the plates around it.
        event_dims: by the same, how many dimensions of its value are of one event.
        subsamples: by plate that subsamples, its indices.
    """

    drawn: dict[str, Tensor]
    latents: dict[str, Tensor]
    observed: dict[str, Tensor]
    likelihood: dict[str, Any]
    counted: dict[str, Tensor]
    deterministic: dict[str, Tensor]
    plates: dict[str, Plates]
    event_dims: dict[str, int]
    subsamples: dict[str, Tensor]


class Redraw(Messenger):
    """Draw observed sites anew and give latent ones values from elsewhere.

    It stands outside all handlers of the program, as a `condition` in it observes sites too. Sites whose value follows
    from others (`pyro.deterministic`, a reparameterised site, `pyro.factor`) are left as they are.

    Args:
        values: of latent sites, and the indices of plates, by name.
        observed: whether observed sites are drawn anew.

    Attributes:
        sites: by name, the messages of the sites; those drawn anew hold the data in `infer["data"]`.
        current: the site that is being drawn; empty between sites.
    """

    def __init__(self, values: Mapping[str, Any], *, observed: bool = True):
        super().__init__()
        self.values = values
        self.observed = observed
        self.sites: dict[str, Any] = {}
        self.current = ""

    def _pyro_sample(self, msg: Any) -> None:
        self.current = msg["name"]
        if self.observed and _is_data(msg):
            data = torch.as_tensor(msg["value"])
            msg["fn"] = _expanded(msg["fn"], data)
            msg["infer"] = msg["infer"] | {"data": data}
            msg["value"], msg["is_observed"], msg["done"] = None, False, False
        elif msg["name"] in self.values and not msg["is_observed"]:
            msg["value"] = _fitted(msg, self.values[msg["name"]])  # not `done`: enumeration must see the site

    def _pyro_post_sample(self, msg: Any) -> None:
        self.current = ""
        self.sites[msg["name"]] = dict(msg)


class Simulated(Messenger):
    """Give observed sites other data, and take a subsample of a plate as all that there is.

    Args:
        values: of observed sites, by name.
        subsamples: the indices of plates, by name.
    """

    def __init__(self, values: Mapping[str, Tensor], subsamples: Mapping[str, Tensor]):
        super().__init__()
        self.values = {**values, **subsamples}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and (_is_data(msg) or site_is_subsample(msg)):
            msg["value"], msg["done"] = self.values[msg["name"]], True
        for frame in msg["cond_indep_stack"]:
            if frame.full_size not in (None, frame.size):
                msg["scale"] = msg["scale"] * frame.size / frame.full_size


def replicate(
    model: Program, guide: Guide, data: Arguments, *, subsamples: Mapping[str, Tensor] | None = None
) -> Replicate:
    """Draw replicated data from a model, given latents inferred from the data, or none.

    With a guide this is a posterior predictive replicate: z from q(z | x), then x from p(x | z); without one a prior
    predictive replicate: z from p(z). `Predictive(model, guide=guide)(x=x)` would return x instead, as x is observed.
    Discrete latents that the guide leaves to be summed out are drawn from p(y | x, z) (`infer_discrete`).

    Args:
        model, guide: the pair, or any other; in place of a guide also the values of all latents by site. The sites that
            the model is conditioned on are drawn anew as well.
        data: what both are called with: a mapping of keyword arguments, a tuple of positional ones, or the only one.
        subsamples: the indices of plates that subsample, by name; None draws them, the guide's for both.

    Raises:
        UserError: a site cannot be drawn, as its distribution has no draws, a `pyro.factor` weighs the prior, or
            something around this call observes it; or the guide's sites are not the model's latent ones.

    >>> from pyro_models.guides import VAEGuide
    >>> from pyro_models import VAE, distributions
    >>> model = VAE(torch.nn.Linear(2, 4), distributions.NormalLikelihood(1.0, 1), 2)
    >>> x = torch.zeros(7, 4)
    >>> replicate(model, VAEGuide(torch.nn.Linear(4, 4)), {"x": x}).drawn["x"].shape
    torch.Size([7, 4])
    """
    known: dict[str, Any] = dict(subsamples or {})
    inferred: Mapping[str, Any] = guide if isinstance(guide, Mapping) else {}
    if callable(guide):
        guided = run(guide, data, known, observed=False)
        inferred = latents_of_guide(guided)
        known |= subsamples_of(guided)
    known |= inferred
    sites = run(model, data, known)
    if guide is not None and (left := _latents(sites).keys() - known.keys()):
        left -= {name for name in left if isinstance(sites[name]["fn"], Delta)}  # a function of its parents
        sites = run(model, data, known | _summed_out(model, data, known, sites, left))
    if outside := [name for name, site in sites.items() if site["is_observed"] and "data" in site["infer"]]:
        raise UserError(f"{_quoted(outside)} is observed from outside the model and cannot be drawn anew")
    if guide is None and (factors := [name for name, site in sites.items() if isinstance(site["fn"], Unit)]):
        raise UserError(
            f"no prior replicates: the factor {factors[0]!r} weighs what is drawn, and draws do not heed it"
        )
    if factors := [name for name, site in sites.items() if isinstance(site["fn"], Unit)]:
        weights = {name: sites[name]["fn"].log_factor for name in factors}
        at_data = run(model, data, {**known, **_latents(sites)}, observed=False)
        for name, log_factor in weights.items():
            if not torch.equal(log_factor, at_data[name]["fn"].log_factor):
                raise UserError(
                    f"no replicates: the factor {name!r} depends on what is drawn anew, and draws do not heed it"
                )
    if callable(guide) and (unknown := inferred.keys() - _latents(sites).keys()):
        raise UserError(
            f"{_quoted(unknown)} of the guide is no latent site of the model: leave it out, or mark it by "
            "infer={'is_auxiliary': True}"
        )
    drawn, observed, likelihood, counted = {}, {}, {}, {}
    for name, site in sites.items():
        if "data" not in site["infer"]:
            continue
        kept, value = _counted(site), site["infer"]["data"]
        if kept is not None and not kept.any():
            continue
        if torch.broadcast_shapes(site["value"].shape, value.shape) != site["value"].shape:
            raise UserError(
                f"a draw of {name!r} has the shape {list(site['value'].shape)}, and the data {list(value.shape)}: give "
                "its distribution the size of an event, as `duration` of a hidden Markov model"
            )
        observed[name], likelihood[name] = value, site["fn"]
        present = ~value.isnan()
        if kept is not None:
            counted[name] = kept
            present = present & kept.reshape(*kept.shape, *[1] * _event_dim(site["fn"]))
        drawn[name] = site["value"].where(present, value)
    return Replicate(
        drawn,
        _latents(sites),
        observed,
        likelihood,
        counted,
        {name: site["value"] for name, site in sites.items() if _is_deterministic(site)},
        {name: plates_of(site) for name, site in sites.items() if not site_is_subsample(site)},
        {name: _event_dim(site["fn"]) for name, site in sites.items() if not site_is_subsample(site)},
        subsamples_of(sites),
    )


def run(program: Program, data: Arguments, values: Mapping[str, Any], *, observed: bool = True) -> dict[str, Any]:
    """Run a program, with its observed sites drawn anew or as they are: the messages of its sites."""
    args, kwargs = arguments(data)
    handler = Redraw(values, observed=observed)
    try:
        with handler:
            program(*args, **kwargs)
    except (NotImplementedError, AssertionError) as error:
        if not handler.current:
            raise
        raise UserError(
            f"{handler.current!r} cannot be drawn: its distribution has no draws ({first_line(error)})"
        ) from error
    return handler.sites


def latents_of_guide(sites: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what a guide drew of the model's latents: no plates, no auxiliary sites, nothing observed or computed."""
    return {
        name: site["value"]
        for name, site in sites.items()
        if not (site["infer"].get("is_auxiliary") or site["is_observed"] or site_is_subsample(site))
    }


def subsamples_of(sites: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the indices of plates that are not all of them; a guide's may stand in a plate of the model."""
    chosen = {name: site for name, site in sites.items() if site_is_subsample(site)}
    return {name: site["value"] for name, site in chosen.items() if len(site["value"]) != site["fn"].size}


def _summed_out(
    model: Program, data: Arguments, known: Mapping[str, Any], sites: Mapping[str, Any], left: set[str]
) -> dict[str, Tensor]:
    """Draw the discrete latents `left` out of the guide from their conditional, given its draws and the data."""
    if not left:
        return {}
    if other := {name for name in left if not getattr(sites[name]["fn"], "has_enumerate_support", False)}:
        raise UserError(f"no draws of {_quoted(other)}, a latent site of the model: draw it in the guide")
    args, kwargs = arguments(data)
    dims = [-frame.dim for site in sites.values() for frame in plates_of(site)]

    def given(*args: Any, **kwargs: Any) -> None:
        with Redraw(known, observed=False):
            model(*args, **kwargs)

    summed = infer_config(given, lambda site: _enumerated(site, left))
    draw, handler = infer_discrete(summed, -1 - max(dims, default=0)), Redraw({}, observed=False)
    try:
        with handler:
            draw(*args, **kwargs)
    except (ValueError, RuntimeError, NotImplementedError, LookupError) as error:
        raise UserError(
            f"no draws of {_quoted(left)}: the guide leaves it out, and to sum over its values fails "
            f"({first_line(error)}); draw it in the guide"
        ) from error
    return {name: handler.sites[name]["value"] for name in left}


def _enumerated(site: Any, names: set[str]) -> Any:
    """Return the `infer` of a site in a sum over the values of those of some names, whatever it asks itself."""
    return {"enumerate": "parallel" if site["name"] in names else None}


def _latents(sites: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: site["value"]
        for name, site in sites.items()
        if not (site["is_observed"] or "data" in site["infer"] or site_is_subsample(site))
    }


def _is_data(msg: Any) -> bool:
    """Whether a site is observed and holds data."""
    return msg["is_observed"] and not (_is_deterministic(msg) or isinstance(msg["fn"], Unit))


def _is_deterministic(msg: Any) -> bool:
    """Whether the value of a site follows from others: reparameterisations of Pyro make it the point of a Delta."""
    fn = msg["fn"]
    while isinstance(fn, MaskedDistribution | Independent):
        fn = fn.base_dist
    fixed = isinstance(fn, Delta) and fn.v.shape == msg["value"].shape and torch.equal(fn.v, msg["value"])
    return msg["is_observed"] and (fixed or bool(msg["infer"].get("_deterministic")))


def _event_dim(fn: Any) -> int:
    return getattr(fn, "event_dim", 0)


def _expanded(fn: Any, data: Tensor) -> Any:
    """Return a distribution with the batch shape of the data, over which its log-density is broadcast."""
    if not hasattr(fn, "batch_shape"):
        return fn
    batch = torch.broadcast_shapes(fn.batch_shape, data.shape[: data.ndim - fn.event_dim])
    draws_all = batch == fn.batch_shape and not isinstance(fn, HiddenMarkovModel)  # one of these may draw fewer
    return fn if draws_all else fn.expand(batch)


def _fitted(msg: Any, value: Any) -> Any:
    """Return a value in the shape of its site: `Predictive` puts dimensions of one between the draws and the value."""
    if site_is_subsample(msg) or not hasattr(msg["fn"], "shape"):
        return value
    shape = msg["fn"].shape()
    extra = value.ndim - len(shape)
    if extra > 0 and value.shape == (1,) * extra + tuple(shape):
        return value.reshape(shape)
    if value.ndim > len(shape):
        raise UserError(
            f"{msg['name']!r} has the shape {list(shape)}, and its value {list(value.shape)}: give it the shape that "
            "the model draws, or draw it in the guide in the model's plates"
        )
    return value


def _counted(site: Any) -> Tensor | None:
    """Return where the log-density of a site counts, over its batch shape; None where it does everywhere."""
    masks = [site["mask"]]
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        masks.append(getattr(fn, "_mask", None))
        fn = fn.base_dist
    masks = [mask for mask in masks if mask is not None and mask is not True]
    if not masks:
        return None
    counted = torch.ones(getattr(site["fn"], "batch_shape", ()), dtype=torch.bool)
    for mask in masks:
        mask = torch.as_tensor(mask, dtype=torch.bool)
        counted = counted.to(mask.device) & (mask if mask.ndim <= counted.ndim else mask.flatten(counted.ndim).any(-1))
    return counted


def _quoted(names: Any) -> str:
    return ", ".join(map(repr, sorted(names)))


def plates_of(site: Any) -> Plates:
    """Return the plates around a site that have a dimension, outermost first."""
    return tuple(frame for frame in site["cond_indep_stack"] if frame.vectorized)


def data_plate(replicated: Replicate, dependent: Collection[str] = ()) -> Any:
    """Return the outermost plate that is around each observed and latent site.

    None where there is none, or its elements depend on each other's latents.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> data_plate(replicate(model, None, torch.zeros(7))).name
    'data'
    """
    return common_plate([replicated.plates[name] for name in [*replicated.drawn, *replicated.latents]], dependent)


def plate_dim(plates: Plates, name: str, event_dim: int = 0) -> int:
    """Return the dimension of a plate in the values of a site, from the right.

    Args:
        plates: around the site.
        name: of the plate.
        event_dim: how many dimensions an event of the site has.
    """
    return next(frame.dim for frame in plates if frame.name == name) - event_dim


def batches(model: Program, guide: Guide, data: Arguments, size: int | None) -> list[Arguments]:
    """Cut the data into consecutive parts of `size`, if the pair treats the parts as it treats the whole.

    Tensors that have one row for each datum are cut, at any depth of the arguments; others are passed as they are. On a
    first part the plate around all sites must have as many elements as the part has rows, and rows at either end of it
    alone must have the densities that they have among the others.

    Raises:
        UserError: there is no such plate, or the parts depend on each other.
    """
    leaves = [leaf for leaf in tree_leaves(data) if isinstance(leaf, Tensor) and leaf.ndim]
    if size is None or all(len(leaf) <= size for leaf in leaves):
        return [data]
    if isinstance(guide, Mapping):
        raise UserError("`batch_size` does not go with samples in place of a guide: leave it out")
    reasons = []
    for n in sorted({len(leaf) for leaf in leaves if len(leaf) > size}, reverse=True):

        def rows(first: int, last: int, n: int = n) -> Arguments:
            return tree_map(lambda x: x[first:last] if isinstance(x, Tensor) and x.ndim and len(x) == n else x, data)

        if not (reason := _why_not(model, guide, rows, max(size, 2))):
            return [rows(first, first + size) for first in range(0, n, size)]
        reasons.append(reason)
    raise UserError(f"`batch_size={size}`: {reasons[0]}; leave `batch_size` out")


def _why_not(model: Program, guide: Guide, rows: Callable[[int, int], Arguments], size: int) -> str:
    """Return why a first part of the data, and parts of that, are not treated as the whole is; empty if they are."""
    try:
        whole = replicate(model, guide, rows(0, size))
    except Exception as error:
        return f"the pair does not run on the first {size} rows alone ({first_line(error)})"
    if whole.subsamples:
        return f"the plate {next(iter(whole.subsamples))!r} draws a subsample itself"
    if (plate := data_plate(whole)) is None:
        inside = {frame.name for frames in whole.plates.values() for frame in frames}
        outside = [name for name in [*whole.latents, *whole.drawn] if not whole.plates[name]] or [*whole.plates]
        return f"{outside[0]!r} is outside the plate {_quoted(inside)}" if inside else "there is no plate"
    if plate.size != size:
        return f"on the first {size} rows the plate {plate.name!r} has {plate.size} elements"
    inferred = guide if callable(guide) else draws_nothing
    if site := reads_other_rows(model, inferred, lambda first, last: arguments(rows(first, last)), size):
        return f"the density of {site!r} at a datum depends on the other data"
    return ""


def densities_of(sites: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the log-densities of the latents and the data at each entry of their batch shapes."""
    chosen = {name: site for name, site in sites.items() if _is_data(site) or name in _latents(sites)}
    return {name: site["fn"].log_prob(site["value"]) for name, site in chosen.items()}


def in_parts(model: Program, guide: Guide, data: Arguments, size: int | None) -> Replicate:
    """Replicate `size` data at a time, or all at once (None): see `batches` and `concatenated`."""
    return concatenated([replicate(model, guide, part) for part in batches(model, guide, data, size)])


def concatenated(parts: Sequence[Replicate]) -> Replicate:
    """Return replicates of parts of the data as one of all of them, without likelihood and deterministic sites."""
    first = parts[0]
    if len(parts) == 1:
        return first
    plate = data_plate(first).name

    def whole(field: str) -> dict[str, Tensor]:
        dims = {name: 0 if field == "counted" else first.event_dims[name] for name in getattr(first, field)}
        return {
            name: torch.cat([getattr(part, field)[name] for part in parts], plate_dim(first.plates[name], plate, dim))
            for name, dim in dims.items()
        }

    fields: dict[str, Any] = {field: whole(field) for field in ("drawn", "latents", "observed", "counted")}
    return first._replace(likelihood={}, deterministic={}, **fields)


def as_drawn(observed: Tensor, drawn: Tensor) -> Tensor:
    """Return data as the model draws them: grey pixels become black or white, if those of the model are.

    Grey pixels under a Bernoulli are learned as E[log Bernoulli(b; p)] over b ~ Bernoulli(x): the model is of b,
    which is drawn here.

    >>> as_drawn(torch.full((3,), 0.5), drawn=torch.ones(3)).eq(0.5).any()
    tensor(False)
    """
    grey = not is_binary(observed) and bool(((observed >= 0) & (observed <= 1)).all())
    return torch.bernoulli(observed) if grey and is_binary(drawn) else observed


def is_binary(values: Tensor) -> bool:
    """Return whether all values that are not missing (NaN) are 0 or 1.

    >>> is_binary(torch.tensor([0.0, torch.nan, 1.0])), is_binary(torch.tensor([0.5]))
    (True, False)
    """
    return bool(((values == 0) | (values == 1) | values.isnan()).all())
