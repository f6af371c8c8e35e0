"""Draws of a pair: the guide run, then the model at what it drew, with every site's density by the plates it stands in.

Plates are known by their frames (`cond_indep_stack`), never by a length. The plate of the data is the outermost one
that every site of both programs stands in: there a value is kept for each datum, and over all other plates it is
summed. Where there is no such plate, as with a latent that all data share, there is one value for the whole.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):  # three measurements of each of five subjects
    ...     with pyro.plate("subjects", 5, dim=-1):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         with pyro.plate("measurements", 3, dim=-2):
    ...             pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("subjects", 5, dim=-1):
    ...         pyro.sample("z", dist.Normal(x.mean(0), 1.0))
    >>> (only,) = draw(model, guide, (torch.zeros(3, 5),), {})
    >>> only.plate.name, [list(only.each(site.log_prob(), site).shape) for site in only.p.values()]
    ('subjects', [[1, 5], [1, 5]])
"""

import builtins
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import _context_wrap
from torch import Tensor

from pyro_models.base.errors import UserError, first_line
from pyro_models.objectives.handlers import PARTICLES, Enumerate, Record, Site, Unenumerable, is_point
from pyro_models.objectives.programs import Program, gpus_of, modules_of

Sites = Mapping[str, Site]
OUTSIDE = (
    "site {!r} depends on a discrete site in plate {!r}, in which it does not stand, so that no sum over each of its "
    "elements exists: draw the discrete site (graph, trace or rws)"
)
ACROSS = (
    "site {!r} depends at one element of plate {!r} on a discrete site at others, against what a plate declares, so "
    "that no sum over each of its elements exists: draw the discrete site (rws)"
)
TOLERANCE = 1e-3  # of log-densities that should be the same, relative and absolute, in single precision

log = logging.getLogger("pyro_models")


@dataclass(frozen=True)
class Draw:
    """One run of a pair, of one particle, or of several along a dimension of their own.

    Attributes:
        p: the sites of the model that have a density, by name, in order.
        q: those of the guide.
        plate: the data's, or None where no plate is common to all sites.
        nesting: how many dimensions the plates of the pair take, at least 1; particles stand left of them.
        rows: the number of particles in this run.
    """

    p: dict[str, Site]
    q: dict[str, Site]
    plate: CondIndepStackFrame | None
    nesting: int
    rows: int = 1

    @property
    def data(self) -> int:
        """The number of data, of which a subsample may have been drawn; 1 where they are one whole."""
        return 1 if self.plate is None else self.plate.full_size or self.plate.size

    def each(self, value: Tensor, site: Site) -> Tensor:
        """Sum a site's values, [*enumerated, *particles, *plates], over all plates but the data's.

        Returns:
            [*enumerated, rows, data], or [*enumerated, rows, 1] of the whole. Where a plate of the data was named, a
            site outside it counts by equal parts for each datum.
        """
        if self.plate is None:
            return self._flat(sum_plates(value, self.nesting))
        frame = site.frame(self.plate.name)
        if frame is None:
            return self._flat(sum_plates(value, self.nesting)) / self.data
        if frame.dim is None:  # a sequential plate, of which this site is one step
            one_hot = torch.nn.functional.one_hot(torch.tensor(frame.counter - 1), frame.size)
            return self._flat(sum_plates(value, self.nesting)) * one_hot.to(value)
        return self._flat(sum_plates(value, self.nesting, (frame.dim,)))

    def _flat(self, value: Tensor) -> Tensor:
        left = list(value.shape[: -self.nesting])
        while left and left[0] == 1:  # of a parameter that has a dimension for particles
            left = left[1:]
        return value.reshape(*left, -1) if self.rows > 1 and left else value.reshape(*left, 1, -1)


def sum_plates(value: Tensor, nesting: int, kept: Collection[int] = ()) -> Tensor:
    """Sum over the dimensions of plates, -1 to -nesting, that are not kept; they stay, of size 1."""
    summed = [dim for dim in range(-min(nesting, value.ndim), 0) if dim not in kept]
    return value.sum(summed, keepdim=True) if summed else value


def draw(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    particles: int = 1,
    enumerate: bool = False,
    hidden: Collection[str] = (),
    plate: str | None = None,
    weighted: bool = False,
) -> list[Draw]:
    """Run the pair `particles` times: in one run with a dimension for them where it can be, else one after the other.

    Args:
        model, guide: the pair.
        args, kwargs: what both are called with.
        particles: how many.
        enumerate: whether each discrete latent site of the guide takes all its values instead of a draw.
        hidden: sites of the model that are drawn, and whose densities do not count.
        plate: the name of the data's plate; None takes the outermost one common to all sites.
        weighted: whether each datum gets importance weights of its own: where its densities depend on the latents of
            others, against what the plate declares, the data are then one whole.

    Raises:
        UserError: the guide's sites are not the model's latent ones, or a site has a dimension that no plate declares.
        Unenumerable: a discrete site cannot take all its values in one run.
    """
    rows, nesting, dependent = 1, None, frozenset[str]()
    if particles > 1 or enumerate:
        layout = layout_of(model, guide, args, kwargs, particles > 1, enumerate)
        rows, nesting = particles if layout.vectorised else 1, layout.nesting
        dependent = layout.dependent if weighted else dependent
        if enumerate and layout.unsummable[0]:
            raise Unenumerable(layout.unsummable[0])
    if nesting is not None and rows > 1:
        repeat = pyro.plate(PARTICLES, rows, dim=-1 - nesting)
        model, guide = repeat(model), repeat(guide)
    if hidden:
        model = poutine.block(model, hide=list(hidden))  # outside the plate, so that each particle has its own draw
    draws = []
    for _ in range(particles // rows):
        with Enumerate((nesting or 0) + (rows > 1)) if enumerate else nullcontext():
            p, q = _run(model, guide, args, kwargs)
        draws.append(_as_draw(p, q, rows, nesting, plate, dependent))
    return draws


def record_pair(
    model: Program, guide: Program, *args: Any, latents: Sites | None = None, **kwargs: Any
) -> tuple[dict[str, Site], dict[str, Site]]:
    """Run the guide, then the model at what the guide drew: the sites of the model, and of the guide.

    Args:
        model, guide: the pair.
        args, kwargs: what both are called with.
        latents: what the guide is to draw; None lets it draw.

    Raises:
        UserError: the guide's sites are not the model's latent ones.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model(x):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     pyro.sample("z", dist.Normal(x / 2, 0.5))
        >>> p, q = record_pair(model, guide, x=torch.tensor(1.0))
        >>> list(p), list(q), bool(p["z"].value == q["z"].value)
        (['z', 'x'], ['z'], True)
    """
    p, q = _run(model, guide, args, kwargs, latents)
    check_match(p.sites, q.sites)
    return p.sites, q.sites


def run_pair(model: Program, guide: Program, *args: Any, **kwargs: Any) -> tuple[dict[str, Site], dict[str, Site]]:
    """Return the sites of a run of the model, and of the guide, whether or not they match."""
    p, q = _run(model, guide, args, kwargs)
    return p.sites, q.sites


def check_match(p: Sites, q: Sites) -> None:
    """Refuse a guide that is not of the model.

    Raises:
        Unenumerable: the guide lacks a discrete site of the model, which takes all its values there.
        UserError: it lacks another latent site, or samples one that the model observes, or does not have.
    """
    for name, site in q.items():
        if name in p:
            if p[name].is_observed and not site.is_observed:
                raise UserError(f"site {name!r} is observed in the model and sampled by the guide: leave it out there")
        elif not (site.is_auxiliary or site.is_observed):
            raise UserError(
                f"site {name!r} is sampled by the guide and is no site of the model: leave it out, or mark it by "
                'infer={"is_auxiliary": True}'
            )
    for name, site in p.items():
        if site.is_observed or (name in q and not q[name].is_observed) or _never_counts(site) or is_point(site.fn):
            continue
        if site.is_enumerated:
            raise Unenumerable(f"site {name!r} is summed out of the model")
        hint = " (or use the estimator enum, which sums over it)" if site.fn.has_enumerate_support else ""
        raise UserError(
            f"site {name!r} is latent in the model and not sampled by the guide: sample it there, or observe it{hint}"
        )


def _never_counts(site: Site) -> bool:
    return site.mask is not None and not bool(torch.as_tensor(site.mask).any())


def _run(
    model: Program,
    guide: Program,
    args: Any,
    kwargs: Any,
    latents: Sites | None = None,
    subsamples: Mapping[str, Tensor] | None = None,
) -> tuple[Record, Record]:
    with Record(latents, subsamples) as q:
        guide(*args, **kwargs)
    with Record({**(latents or {}), **q.sites}, q.subsamples) as p:
        model(*args, **kwargs)
    return p, q


def _as_draw(
    model: Record, guide: Record, rows: int, nesting: int | None, plate: str | None, dependent: Collection[str] = ()
) -> Draw:
    """Check a run, find the plate of its data, and leave the scale of a subsample of them out of their densities."""
    check_match(model.sites, guide.sites)
    p, q = (
        {name: site for name, site in record.sites.items() if not site.is_deterministic} for record in (model, guide)
    )
    sites = [*p.items(), *q.items()]
    if nesting is None:
        nesting = _nesting([*p.values(), *q.values()])
    wide = rows > 1 or any(site.is_enumerated for site in q.values())
    for name, site in sites:
        _check_dimensions(name, site, nesting, wide)
    frame = data_plate(sites, plate, dependent)
    if frame is not None and frame.size == -1:  # a plate without a size takes that of what stands in it
        size = max(site.fn.batch_shape[frame.dim or 0] for _, site in sites if site.frame(frame.name))
        frame = frame._replace(size=size, full_size=size)
    if frame is not None and frame.full_size not in (None, frame.size):
        p, q = (_without_subsampling(sites, frame) for sites in (p, q))
    return Draw(p, q, frame, nesting, rows)


def _without_subsampling(sites: Sites, frame: CondIndepStackFrame) -> dict[str, Site]:
    """Divide the scales of the sites in a subsampled plate by the factor that it gives them."""
    ratio = (frame.full_size or frame.size) / frame.size
    return {
        name: replace(site, scale=site.scale / ratio) if site.frame(frame.name) else site
        for name, site in sites.items()
    }


def _nesting(sites: Iterable[Site]) -> int:
    return max((-frame.dim for site in sites for frame in site.frames if frame.dim is not None), default=1)


def _check_dimensions(name: str, site: Site, nesting: int, wide: bool) -> None:
    """Refuse a site with a batch dimension that no plate declares: it would be summed, or taken for the data's."""
    shape = site.fn.batch_shape
    if not shape:
        return
    declared = [frame.dim for frame in site.frames]
    for dim in range(-min(len(shape), nesting if wide else len(shape)), 0):
        if shape[dim] > 1 and dim not in declared:
            raise UserError(
                f"site {name!r} has a batch dimension of {shape[dim]} at {dim} that no plate declares: put it in a "
                "pyro.plate, or make it an event dimension by .to_event"
            )


def data_plate(
    sites: list[tuple[str, Site]], named: str | None, dependent: Collection[str] = ()
) -> CondIndepStackFrame | None:
    """Return the outermost plate that is common to all sites, or the one that is named.

    None where there is none, or its elements are dependent, as in `Layout`: the data are then one whole.

    Raises:
        UserError: no plate has that name, or the plate has other dimensions in the model and in the guide.
    """
    if named is not None:
        frames = {frame.name: frame for _, site in reversed(sites) for frame in site.frames}
        if named not in frames:
            raise UserError(f"`plate={named}`: the plates of the pair are {sorted(frames)}")
        return common_plate([[frames[named]]], dependent)
    common = common_plate([site.frames for _, site in sites], dependent)
    for name, site in sites:
        if common and (frame := site.frame(common.name)) and frame.dim != common.dim:
            raise UserError(
                f"site {name!r}: plate {frame.name!r} has dimension {frame.dim} there and {common.dim} at "
                f"{sites[0][0]!r}: give it the same `dim` in model and guide"
            )
    return common


def common_plate(
    stacks: Sequence[Sequence[CondIndepStackFrame]], dependent: Collection[str] = ()
) -> CondIndepStackFrame | None:
    """Return the outermost plate that is in each of several stacks, as it is in the first.

    None where there is none, or its elements are dependent.
    """
    names = [{frame.name for frame in stack} for stack in stacks]
    outermost = (frame for frame in stacks[0] if all(frame.name in each for each in names)) if stacks else iter(())
    frame = next(outermost, None)
    return None if frame and frame.name in dependent else frame


def draws_nothing(*_: Any, **__: Any) -> None:
    """The guide of a pair whose sites are all observed, or drawn from the model."""


@dataclass(frozen=True)
class Layout:
    """How a pair can be run.

    Attributes:
        nesting: how many dimensions its plates take, at least 1.
        vectorised: whether a run in a plate of particles gives each particle what a run of its own would.
        reason: why it does not.
        dependent: the plates around all sites whose elements depend on each other's latents.
        unsummable: why the discrete sites of the guide, and those of the model alone, have no sum over each of their
            elements; empty where they have.
    """

    nesting: int
    vectorised: bool = False
    reason: str = ""
    dependent: frozenset[str] = frozenset()
    unsummable: tuple[str, str] = ("", "")


_LAYOUTS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def layout_of(
    model: Program, guide: Program, args: Any, kwargs: Any, particles: bool = False, enumerate: bool = False
) -> Layout:
    """Return how the pair can be run, which its first run with particles or enumerated sites tries.

    Networks are in evaluation mode in the trial, and nothing of it remains; the random state is as before.

    Raises:
        UserError: an enumerated site's values enter the event of another.
    """
    owners = [_owner(program) for program in (model, guide)]
    try:
        known = _LAYOUTS.setdefault(owners[0][0], WeakKeyDictionary()).setdefault(owners[1][0], {})
    except TypeError:  # what takes no weak reference is tried each time
        known = {}
    key = owners[0][1], owners[1][1], _sorts(args, kwargs), particles, enumerate
    if key not in known:
        known[key] = _try_out(model, guide, args, kwargs, particles, enumerate)
        if particles and not known[key].vectorised:
            log.warning(
                "particles are drawn one after the other, as the pair does not run in a plate of them: %s",
                known[key].reason,
            )
    return known[key]


def _owner(program: Any) -> tuple[Any, Any]:
    """The object behind handlers, partials and methods; the name of the method and the sorts of arguments given."""
    given: tuple[Any, ...] = ()
    while True:
        handled = poutine.unwrap(program)
        if handled is not program and not (isinstance(program, partial) and program.func is not _context_wrap):
            program = handled
        elif isinstance(program, partial):
            given, program = (*given, _sorts(program.args, program.keywords)), program.func
        else:
            return getattr(program, "__self__", program), (getattr(program, "__name__", ""), given)


def _sorts(args: Any, kwargs: Any) -> Any:
    """What may change the course of a program: which arguments there are, which dimensions are 1, values of flags."""

    def sort(value: Any) -> Any:
        if isinstance(value, bool | str):
            return value
        return tuple(n == 1 for n in value.shape) if hasattr(value, "shape") else type(value)

    return tuple((name, sort(value)) for name, value in [*builtins.enumerate(args), *kwargs.items()])


@contextmanager
def _trial(model: Program, guide: Program) -> Iterator[list[int]]:
    """Run a pair with its networks in evaluation mode; nothing of it remains. Yield the numbers of its devices."""
    modules = modules_of(model, guide)
    modes = [(part, part.training) for module in modules for part in module.modules()]
    devices = gpus_of(parameter for module in modules for parameter in module.parameters())
    with torch.no_grad(), torch.random.fork_rng(devices), pyro.validation_enabled(False), poutine.block():
        for part, _ in modes:
            part.training = False
        try:
            yield devices
        finally:
            for part, mode in modes:
                part.training = mode


def _try_out(model: Program, guide: Program, args: Any, kwargs: Any, particles: bool, enumerate: bool) -> Layout:
    with _trial(model, guide) as devices:
        single = plain = _run(model, guide, args, kwargs)
        nesting = _nesting([site for record in plain for site in record.sites.values()])
        if enumerate:
            try:
                with Enumerate(nesting):
                    single = _run(model, guide, args, kwargs)
            except Unenumerable:
                enumerate = False
            except Exception as error:  # the program was not written for another dimension
                raise Unenumerable(first_line(error)) from error
            _check_events(plain, single)
        reason = _difference(model, guide, args, kwargs, nesting, single, enumerate) if particles else ""
        dependences = _dependences(model, guide, args, kwargs, plain, devices)
        return Layout(nesting, particles and not reason, reason, *dependences)


def reads_other_rows(model: Program, guide: Program, rows: Callable[[int, int], tuple[Any, Any]], n: int) -> str:
    """Name a site of the model whose density at a datum changes where the data are cut into parts, if there is one.

    It does where a model standardises its data, reads their number, or goes from one to the next. Both ends are tried.
    A guide may read what it likes: whatever it draws, the bound is one.

    Args:
        model, guide: the pair.
        rows: from the first row and the one after the last to positional and keyword arguments.
        n: how many rows are tried together.
    """
    length = min(2, n // 2)
    try:
        with _trial(model, guide):
            whole = _run(model, guide, *rows(0, n))
            sites = [each for record in whole for each in record.sites.items() if not each[1].is_deterministic]
            plate = data_plate(sites, None)
            if not length or plate is None or plate.dim is None:
                return ""
            for start in (0, n - length):
                latents = {
                    name: replace(site, value=site.value.narrow(plate.dim - len(site.fn.event_shape), start, length))
                    for name, site in sites
                    if not site.is_observed
                }
                parts = [_run(model, guide, *rows(start, start + length), latents=latents)[0] for _ in range(2)]
                for name, site in whole[0].sites.items():
                    if site.is_deterministic:
                        continue
                    theirs = site.log_prob().narrow(plate.dim, start, length)
                    ours, same = (part.sites[name].log_prob().nan_to_num() for part in parts)
                    drawn = not torch.equal(ours, same)  # by more than its latents
                    if not (drawn or torch.allclose(theirs.nan_to_num(), ours, TOLERANCE, TOLERANCE)):
                        return name
    except Exception:  # it may not run on so few rows, or a flow have no inverse
        return ""
    return ""


def _check_events(plain: tuple[Record, Record], enumerated: tuple[Record, Record]) -> None:
    """Refuse a program that takes the dimension of an enumerated site for one of an event."""
    for alone, together in zip(plain, enumerated, strict=True):
        for name in alone.sites.keys() & together.sites.keys():
            shapes = [list(record.sites[name].fn.event_shape) for record in (alone, together)]
            if shapes[0] != shapes[1]:
                raise UserError(
                    f"site {name!r} has events of {shapes[0]}, and of {shapes[1]} where discrete sites take all their "
                    "values along a dimension left of the plates: let nothing but broadcasting meet that dimension, or "
                    "draw the sites (graph, trace or rws)"
                )


def _difference(
    model: Program, guide: Program, args: Any, kwargs: Any, nesting: int, single: tuple[Record, Record], enumerate: bool
) -> str:
    """Say in what two particles in one run differ from two runs at the same draws; an empty text if in nothing."""
    repeat = pyro.plate(PARTICLES, 2, dim=-1 - nesting)
    try:
        with Enumerate(nesting + 1) if enumerate else nullcontext():
            both = _run(repeat(model), repeat(guide), args, kwargs)
        latents, shapes = ({**p.sites, **q.sites} for p, q in (both, single))
        for particle in range(2):
            values = {
                name: replace(
                    site, value=_select(site.value, site, nesting, particle).reshape(shapes[name].value.shape)
                )
                for name, site in latents.items()
                if not site.is_observed
            }
            apart = _run(model, guide, args, kwargs, values, both[0].subsamples)
            for together, alone in zip(both, apart, strict=True):
                if together.sites.keys() != alone.sites.keys():
                    return f"the sites are {sorted(together.sites)}, and {sorted(alone.sites)} of one particle"
                for name, site in alone.sites.items():
                    ours = _select(together.sites[name].log_prob(), None, nesting, particle).sum()
                    theirs = site.log_prob().sum()
                    if not torch.allclose(ours, theirs, TOLERANCE, TOLERANCE * site.value.numel() ** 0.5, True):
                        return f"site {name!r} has another density there"
    except Exception as error:  # whatever a program raises: it was not written for another dimension
        return f"{type(error).__name__}: {first_line(error)}"
    return ""


def _dependences(
    model: Program, guide: Program, args: Any, kwargs: Any, plain: tuple[Record, Record], devices: Iterable[Any]
) -> tuple[frozenset[str], tuple[str, str]]:
    """Exchange the latents of some elements of a plate, and see whether the densities at others stay: as in `Layout`.

    A plate declares its elements independent, but a program can sum over it, or shift along it.
    """
    subsamples, standing = plain[0].subsamples, {**plain[1].sites, **plain[0].sites}
    first = {name: site for name, site in standing.items() if not site.is_observed}

    def densities(values: Mapping[str, Tensor]) -> tuple[Record, Record]:
        given = {name: replace(site, value=values.get(name, site.value)) for name, site in first.items()}
        with torch.random.fork_rng(devices):  # what else the programs draw is the same in each run
            return _run(model, guide, args, kwargs, given, subsamples)

    def dependent(plate: str, names: Iterable[str]) -> str:
        """Name a site whose density at an element changes with other elements of some latents."""
        inside = {name: first[name] for name in names if first[name].frame(plate)}
        others = {name: _other(site, second[name]) for name, site in inside.items()}
        mixed = {
            name: _exchanged(site.value, others[name], site.frame(plate), len(site.fn.event_shape))
            for name, site in inside.items()
        }
        for old, new, both in zip(unmoved, densities(others), densities(mixed), strict=True):
            for name in both.sites.keys() & old.sites.keys() & new.sites.keys():
                try:
                    before, after, now = (each.sites[name].log_prob() for each in (old, new, both))
                except (KeyError, NotImplementedError):  # of a flow without an inverse
                    continue
                frame = both.sites[name].frame(plate)
                pairs = [(now, _exchanged(before, after, frame)), *([] if frame else [(before, after)])]
                if not all(torch.allclose(*pair, TOLERANCE, TOLERANCE, equal_nan=True) for pair in pairs):
                    return name
        return ""

    sites = [site for record in plain for site in record.sites.values() if not site.is_deterministic]
    common = {frame.name for site in sites for frame in site.frames if all(each.frame(frame.name) for each in sites)}
    try:
        if not common and not any(site.fn.has_enumerate_support for site in first.values()):
            return frozenset(), ("", "")
        again = _run(model, guide, args, kwargs, subsamples=subsamples)
        second = {name: site.value for record in again for name, site in record.sites.items()}
        unmoved = densities({})
        whole = frozenset(plate for plate in common if dependent(plate, first))
        reasons = []
        for of_guide in (True, False):
            discrete = [n for n in first if first[n].fn.has_enumerate_support and (n in plain[1].sites) == of_guide]
            plates = {frame.name for name in discrete for frame in first[name].frames if frame.dim is not None}
            readers = [(name, plate) for plate in sorted(plates) if (name := dependent(plate, discrete))]
            words = [
                (ACROSS if standing[name].frame(plate) else OUTSIDE).format(name, plate) for name, plate in readers
            ]
            reasons.append(next(iter(words), ""))
    except Exception:  # whatever a program raises at values that are not of one draw
        return frozenset(), ("", "")
    return whole, (reasons[0], reasons[1])


def _other(site: Site, drawn: Tensor) -> Tensor:
    """Return another value of a site: of a discrete one, which may be drawn alike, the next of its support."""
    event = len(site.fn.event_shape)
    try:
        support = site.fn.enumerate_support(expand=False).reshape(-1, *site.fn.event_shape)
    except (NotImplementedError, RuntimeError):
        return drawn
    equal = support.reshape(-1, *[1] * (site.value.ndim - event), *site.fn.event_shape) == site.value
    index = equal.flatten(equal.ndim - event).all(-1) if event else equal
    return support[(index.int().argmax(0) + 1) % len(support)]


def _exchanged(old: Tensor, new: Tensor, frame: CondIndepStackFrame | None, event_dim: int = 0) -> Tensor:
    """Take about half of the elements of a plate, not the first, from another value, or log-density, of a site."""
    if frame is None:
        return old
    dim = -1 if frame.dim is None else frame.dim - event_dim
    n = frame.size if frame.dim is None else old.shape[dim] if old.ndim >= -dim else 1
    taken = torch.rand(n, generator=torch.Generator().manual_seed(0)) < 0.5
    taken[:2] = torch.tensor([False, True])[:n]
    if frame.dim is None:
        return new if taken[frame.counter - 1] else old
    return torch.where(taken.to(old.device).reshape(-1, *[1] * (-dim - 1)), new, old)


def _select(value: Tensor, site: Site | None, nesting: int, particle: int) -> Tensor:
    """The part of a particle in the values of a site, or in its log-density."""
    dim = value.ndim - nesting - 1 - (len(site.fn.event_shape) if site else 0)
    return value.select(dim, particle if value.shape[dim] > 1 else 0)
