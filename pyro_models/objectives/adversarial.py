"""Virtual adversarial training: a classifier must not change its output within a small step in any direction."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from pyro.distributions import OneHotCategorical
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from pyro_models.objectives.programs import gpus_of

HALF = (torch.bfloat16, torch.float16)
Classify = Callable[[Tensor], OneHotCategorical]
"""From data [batch, *shape] to q(y | x), batch shape [batch] and event shape [classes]."""


def vat(
    classify: Classify,
    x: Tensor,
    log_q: Tensor | None = None,
    *,
    radius: float,
    finite_difference: float = 0.1,
    iterations: int = 1,
) -> Tensor:
    """Mean KL(q(y | x) || q(y | x + r)), nats, where r is the step of length `radius` that changes q the most.

    Miyato, Maeda, Koyama and Ishii, Virtual adversarial training, 2018, equations 7 and 8 and algorithm 1. As there, no
    gradient flows into q(y | x), nor into r. Each iteration costs a pass forward and one back to the data; under
    autocast the search, which rounds less, computes q(y | x) of its own by one more pass.

    Args:
        classify: an `nn.Module` or a method of one, which returns a category with finite logits. Batch norm in it uses
            the statistics of its batch and leaves its running ones unchanged; dropout and noise are the same in every
            pass. Other state that a pass in training changes (spectral norm) does change.
        x: data, [batch, *shape].
        log_q: log q(y | x), [batch, classes], where a pass has given it already (see `SharedNoise`); None computes it.
        radius: Euclidean length of r, in the units of the data.
        finite_difference: length of the steps that measure the slope, `xi` in the paper. The paper's 1e-6 is for double
            precision: in single, x + 1e-6 is x in all bright pixels.
        iterations: of the power method.

    Raises:
        TypeError: `classify` belongs to no module.

    Example:
        >>> import pyro.distributions as dist
        >>> network = nn.Linear(2, 3)
        >>> _ = nn.init.eye_(network.weight), nn.init.zeros_(network.bias)
        >>> class Classifier(nn.Module):
        ...     def forward(self, x):
        ...         return dist.OneHotCategorical(logits=10 * network(x))
        >>> x = torch.tensor([[1.0, 0.0], [0.5, 0.45]])  # sure, and near the boundary
        >>> small, large = (vat(Classifier(), x, radius=radius, iterations=3) for radius in (0.01, 0.1))
        >>> bool(small < large)
        True
    """
    again = classify if isinstance(classify, SharedNoise) else SharedNoise(classify)
    if log_q is None:
        with torch.no_grad(), frozen_statistics(again.module):
            log_q = classify(x).logits  # the first pass, whose noise `again` repeats and the search's start does not
    log_q = log_q.detach()
    r = adversary(again, x, log_q, radius=radius, finite_difference=finite_difference, iterations=iterations)
    return divergence(log_q, again(x + r).logits)


def adversary(
    classify: Classify, x: Tensor, log_q: Tensor, *, radius: float, finite_difference: float, iterations: int
) -> Tensor:
    """Return r, [batch, *shape]: the step of length `radius` along which KL(q(y | x) || q(y | x + r)) grows fastest.

    The divergence is 0 at r = 0, and so is its slope; the direction is the first eigenvector of its curvature there,
    which the power method finds from a random start: a slope a little way off is the curvature times that way. Under
    autocast the search is in single precision, because half precision rounds the little way off; and it differentiates
    with respect to the step alone, so that no parameter's gradient is touched. A datum where nothing changes q keeps
    its random direction.

    Args:
        classify, x, radius, finite_difference, iterations: as in `vat`.
        log_q: log q(y | x), [batch, classes].
    """
    rounded = torch.is_autocast_enabled(x.device.type)
    data = x.float() if rounded and x.dtype in HALF else x
    direction = _unit(torch.randn_like(data), data)  # before the noise of the passes, which begins at `SharedNoise`
    again = classify if isinstance(classify, SharedNoise) else SharedNoise(classify)
    with torch.autocast(x.device.type, enabled=False):
        if rounded:
            with torch.no_grad():
                log_q = again(data).logits
        for _ in range(iterations):
            step = (finite_difference * direction).requires_grad_()
            with torch.enable_grad():
                logits = again(data + step).logits
                # No change, but backwards it takes out the slope common to all logits, which is rounding error alone.
                log_p = (logits - logits.mean(-1, keepdim=True)).log_softmax(-1)
                (slope,) = torch.autograd.grad(divergence(log_q, log_p), step)
            direction = _unit(slope, direction)
    return radius * direction.to(x)


class SharedNoise:
    """Passes of a classifier over one batch that differ in their data alone.

    Each call sees the dropout masks and the noise of the pass that begins where this is made, and batch norm takes the
    statistics of its batch and leaves its running ones alone. Torch's random state stays as it was.

    Args:
        classify: an `nn.Module` or a method of one.

    Raises:
        TypeError: it is neither.
    """

    def __init__(self, classify: Classify):
        self.classify = classify
        self.module = module_of(classify)
        self.devices = gpus_of(self.module.parameters())
        self.cpu = torch.get_rng_state()
        self.cuda = [torch.cuda.get_rng_state(device) for device in self.devices]

    def __call__(self, x: Tensor) -> OneHotCategorical:
        """Return q(y | x) for data of the shape of the first pass's."""
        with torch.random.fork_rng(self.devices), frozen_statistics(self.module):
            torch.set_rng_state(self.cpu)
            for device, state in zip(self.devices, self.cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            return self.classify(x)


def module_of(classify: Classify) -> nn.Module:
    """Return the module that `classify` is, or is a method of, and whose statistics can be frozen therefore.

    Raises:
        TypeError: it is neither.
    """
    while isinstance(classify, partial):
        classify = classify.func
    module = getattr(classify, "__self__", classify)
    if not isinstance(module, nn.Module):
        raise TypeError(f"classify must be an nn.Module or a method of one, not {classify!r}")
    return module


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch and instance norm in `module`; in training they use those of their data."""
    tracking = [
        part for part in module.modules() if isinstance(part, _NormBase) and part.track_running_stats and part.training
    ]
    kept = [{name: getattr(part, name) for name in STATISTICS} for part in tracking]
    for part in tracking:
        for name in STATISTICS:
            setattr(part, name, None)
    try:
        yield
    finally:
        for part, values in zip(tracking, kept, strict=True):
            for name, value in values.items():
                setattr(part, name, value)


def divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Mean KL(q || p) of categories, nats: both [batch, classes], logarithms of probabilities, finite."""
    if log_p.dtype in HALF:  # rounded logarithms are of no probabilities
        log_q, log_p = log_q.float().log_softmax(-1), log_p.float().log_softmax(-1)
    return F.kl_div(log_p, log_q, log_target=True, reduction="batchmean")


def _unit(v: Tensor, otherwise: Tensor) -> Tensor:
    """Scale each datum to length 1, by way of its largest entry, lest squares underflow; `otherwise` where it is 0."""
    flat = v.flatten(1)
    largest = flat.abs().amax(1, keepdim=True)
    flat = flat / largest
    flat = flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return torch.where(largest > 0, flat, otherwise.flatten(1)).view_as(v)
