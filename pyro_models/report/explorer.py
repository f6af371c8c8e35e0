"""What a page needs to show the mean of x at any latent: the decoder as a program, and latents to start from."""

import copy
import itertools
import json
from typing import Any

import torch
from torch import Tensor, nn

from pyro_models.base.errors import UserError
from pyro_models.metrics import eval_mode
from pyro_models.objectives import PropagateMeans, Record
from pyro_models.report.program import Recorder, packed
from pyro_models.runs import Run

MOST_LATENTS = 400  # of test data, shown as dots
LARGE = 10_000  # numbers in a weight; what is smaller, as a grid of pixels, stays exact


def means(model: nn.Module, **known: Tensor) -> dict[str, Tensor]:
    """Return the mean of each site of a story, given the values of some, [batch, *event], and the means before it."""
    with eval_mode(model), PropagateMeans(known) as handler:
        model(batch=len(next(iter(known.values()))))
    return handler.means


def decoder_program(model: nn.Module, **known: Tensor) -> dict[str, Any]:
    """Return the program from the values of some sites, [1, *event], to the means of all others: see `Recorder`.

    Raises:
        UserError: the story cannot be written down as one.
    """
    with torch.no_grad(), Recorder(known) as recorder:
        outputs = means(model, **known)
    return recorder.program({site: mean for site, mean in outputs.items() if site not in known})


def rounded(model: nn.Module) -> nn.Module:
    """Return a copy whose large weights are rounded to 16 bits."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            if weight.numel() >= LARGE:
                weight.copy_(weight.half())
    return other


def explorer(run: Run, room: int) -> tuple[str, str]:
    """Return what the page's explorer takes, as JSON, and a sentence about it.

    Weights are stored as they are where the result fits into `room`, and else rounded to 16 bits.

    Args:
        run: a run.
        room: how many characters there may be.

    Raises:
        UserError: why there can be no explorer.
    """
    recipe: Any = run.recipe
    if reason := recipe.unanswered.get("explorer"):
        raise UserError(reason)
    site = recipe.latent_site
    model = copy.deepcopy(run.model).float().cpu()
    with eval_mode(model), Record() as p:
        model(batch=1)
    if not {"x", site} <= p.sites.keys() or len(p.sites[site].fn.event_shape) != 1:
        raise UserError(f"the story must have data x and a latent {site} [latent]; its sites are {', '.join(p.sites)}")
    test = run.dataset.test[:MOST_LATENTS]
    z = recipe.encode(run, test).float().cpu()
    known = {site: z[:1].clone()}
    before = itertools.takewhile(lambda name: name != site, p.sites)
    if category := next((name for name in before if p.sites[name].fn.has_enumerate_support), None):
        support = p.sites[category].fn.enumerate_support()[:, 0]
        known[category] = support[:1].clone()
        choices = [{"name": category, "site": category, "values": list(map(str, range(len(support))))}]
        goals, goal = means(model, **{category: support})[site], f"p({site} | {category})"
    else:
        choices, landmarks, goal = recipe.landmarks(run)
        goals = z[:0] if landmarks is None else landmarks
    both = torch.cat([z, goals])
    margin = 0.05 * (both.amax(0) - both.amin(0)) + 1e-3
    order = z.std(0, correction=0).argsort(descending=True).tolist()
    content = {
        "program": decoder_program(model, **known),
        "latent": site,
        "shape": run.dataset.shape,
        "columns": run.dataset.columns,
        "order": order,
        "low": (both.amin(0) - margin).tolist(),
        "high": (both.amax(0) + margin).tolist(),
        "codes": packed(z),
        "labels": None if test.labels is None else [None if k < 0 else k for k in test.labels.tolist()],
        "choices": choices,
        "goals": packed(goals),
        "goal": goal,
        "heads": recipe.heads(run.dataset),
    }
    sentence = f"Dots are the latents of {len(z)} test data. The page itself decodes, with "
    if len(order) > 1:
        across, up = (f"{site}[{k}]" for k in order[:2])
        sentence = f"Drag the point over {across} (across) and {up} (up), or use the arrow keys. {sentence}"
    if len(text := json.dumps(content)) <= room:
        return text, sentence + "32-bit weights."
    coarse = rounded(model)
    error = (means(coarse, **{site: z})["x"] - means(model, **{site: z})["x"]).abs().max()
    if len(text := json.dumps(content | {"program": decoder_program(coarse, **known)})) <= room:
        return text, sentence + f"16-bit weights, which move no value at these latents by more than {error:.0e}."
    size, free = (number / 1e6 for number in (len(text), room))
    raise UserError(f"the weights would take {size:.1f} MB of the page, in which {free:.1f} MB are left")
