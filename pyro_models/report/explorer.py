"""What a page needs to show the mean of x at any code: the story as a program, where codes lie, where to jump to."""

import copy
import itertools
import json
import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_models.base.errors import UserError
from pyro_models.data import encoded
from pyro_models.metrics.evaluation import codes, evaluation
from pyro_models.objectives import PropagateMeans, Record
from pyro_models.report.program import Recorder, packed

if TYPE_CHECKING:
    from pyro_models.runs.folder import Run

MOST_CODES = 400  # of test data, shown as dots
MOST_NUMBERS = 100_000  # in the codes that attributes lead to
LARGE = 10_000  # numbers in a weight; what is smaller, as a grid of pixels, stays exact


def means(model: nn.Module, **known: Tensor) -> dict[str, Tensor]:
    """Return the mean of each site of a story, given the values of some, [batch, *event], and the means before it."""
    with evaluation(model), PropagateMeans(known) as handler:
        model(batch=len(next(iter(known.values()))))
    return handler.means


def decoder_program(model: nn.Module, **known: Tensor) -> dict[str, Any]:
    """Return the program from the values of some sites, [1, *event], to the means of all others: see `Recorder`.

    Raises:
        UserError: the story cannot be written down as one.
    """
    with torch.no_grad(), Recorder(known) as recorder:
        found = means(model, **known)
    return recorder.program({site: mean for site, mean in found.items() if site not in known})


def rounded(model: nn.Module) -> nn.Module:
    """Return a copy whose large weights are rounded to 16 bits."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            if weight.numel() >= LARGE:
                weight.copy_(weight.half())
    return other


def explorer(run: "Run", room: int) -> tuple[str, str]:
    """Return what the page's explorer takes, as JSON, and what is to be said of it.

    Weights are stored as they are where the result fits into `room`, and else rounded to 16 bits.

    Args:
        run: a run.
        room: how many characters there may be.

    Raises:
        UserError: why there can be no explorer.
    """
    if not run.recipe.latent_dim:
        raise UserError("the story has no code z to move")
    model = copy.deepcopy(run.model).float().cpu()
    with evaluation(model), Record() as p:
        model(batch=1)
    if not {"x", "z"} <= p.sites.keys() or len(p.sites["z"].fn.event_shape) != 1:
        raise UserError(f"the story must have data x and a code z [latent]; its sites are {', '.join(p.sites)}")
    test = run.dataset.test[:MOST_CODES]
    z = codes(run.guide, test, run.recipe.pixels).float().cpu()
    known = {"z": z[:1].clone()}
    before = itertools.takewhile(lambda site: site != "z", p.sites)
    if kind := next((site for site in before if p.sites[site].fn.has_enumerate_support), None):
        support = p.sites[kind].fn.enumerate_support()[:, 0]
        known[kind] = support[:1].clone()
        choices = [{"name": kind, "site": kind, "values": list(map(str, range(len(support))))}]
        goals, goal = means(model, **{kind: support})["z"], f"p(z | {kind})"
    else:
        (choices, goals), goal = _attributes(run, z.shape[1]), "q(z | given)"
    both = torch.cat([z, goals])
    margin = 0.05 * (both.amax(0) - both.amin(0)) + 1e-3
    order = z.std(0, correction=0).argsort(descending=True).tolist()
    content = {
        "program": decoder_program(model, **known),
        "shape": run.dataset.shape,
        "columns": run.dataset.columns,
        "order": order,
        "low": (both.amin(0) - margin).tolist(),
        "high": (both.amax(0) + margin).tolist(),
        "codes": packed(z),
        "labels": None if test.labels is None else test.labels.tolist(),
        "choices": choices,
        "goals": packed(goals),
        "goal": goal,
        "heads": [{"site": f"y{i}", "name": one.name, "values": one.values} for i, one in enumerate(run.attributes, 1)],
    }
    said = f"Dots are the codes of {len(z)} test data. The page itself decodes, with "
    if len(order) > 1:
        said = f"Drag the point over z[{order[0]}] (across) and z[{order[1]}] (up), or use the arrow keys. {said}"
    if len(text := json.dumps(content)) <= room:
        return text, said + "32-bit weights."
    coarse = rounded(model)
    error = (means(coarse, z=z)["x"] - means(model, z=z)["x"]).abs().max()
    if len(text := json.dumps(content | {"program": decoder_program(coarse, **known)})) <= room:
        return text, said + f"16-bit weights, which move no value at these codes by more than {error:.0e}."
    size, free = (number / 1e6 for number in (len(text), room))
    raise UserError(f"the weights would take {size:.1f} MB of the page, in which {free:.1f} MB are left")


def _attributes(run: "Run", latent_dim: int) -> tuple[list[dict[str, Any]], Tensor]:
    """Return as choices which attributes are given, and the mean of q(z | those) for all combinations.

    Of many attributes they are the first ones, whose combinations are few enough.
    """
    some = list(run.attributes)
    while math.prod(len(one.values) + 1 for one in some) * latent_dim > MOST_NUMBERS:
        some.pop()
    if not some:
        return [], torch.empty(0, latent_dim)
    given = torch.tensor(list(itertools.product(*(range(-1, len(one.values)) for one in some))))
    asked = F.pad(given, (0, len(run.attributes) - len(some)), value=-1).to(next(run.guide.parameters()).device)
    with evaluation(run.guide):
        q = run.guide.posterior(**encoded(run.attributes, asked))  # type: ignore[operator]
    return [{"name": one.name, "values": ["not given", *one.values]} for one in some], q.mean.float().cpu()
