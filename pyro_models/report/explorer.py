"""What a page needs to show the mean of x at any latent: the decoder as a program, and latents to start from."""

import copy
import itertools
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyro_models import plots
from pyro_models.base.errors import UserError
from pyro_models.data import Split, to_float
from pyro_models.metrics import eval_mode
from pyro_models.objectives import PropagateMeans, Record
from pyro_models.report.program import Recorder, packed
from pyro_models.report.sprites import sprite
from pyro_models.runs import Run

MOST_LATENTS = 400  # of test data, shown as dots
MOST_NEIGHBOURS = 600  # training images, spread over all of them, among which the page looks for the nearest
PAIRS = 3  # of dimensions that the plane can show
FEWEST_EMBEDDED = 10  # different latents, of which neighbours can be shown


def means(model: nn.Module, arguments: Mapping[str, Tensor] | None = None, **known: Tensor) -> dict[str, Tensor]:
    """Return the mean of each site of a story, given the values of some, [batch, *event], and the means before it."""
    with eval_mode(model), PropagateMeans(known) as handler:
        model(batch=len(next(iter((known | dict(arguments or {})).values()))), **arguments or {})
    return handler.means


def decoder_program(
    model: nn.Module, arguments: Mapping[str, Tensor], known: Mapping[str, Tensor], bits: int
) -> dict[str, Any]:
    """Return the program from arguments and the values of some sites to the means of all others: see `Recorder`.

    Args:
        model: the story.
        arguments, known: what the program starts from, by name: [1, *event].
        bits: of each number in a large weight.

    Raises:
        UserError: the story cannot be written down as a program.
    """
    with torch.no_grad(), Recorder({**arguments, **known}, bits) as recorder:
        outputs = means(model, arguments, **known)
    return recorder.program({site: mean for site, mean in outputs.items() if site not in known})


def rounding_error(model: nn.Module, arguments: Mapping[str, Tensor], known: Mapping[str, Tensor], bits: int) -> float:
    """Return by how much rounded weights move the mean of x at most: as `decoder_program`, but for any batch."""
    with torch.no_grad():
        exact = means(model, arguments, **known)["x"]
        with Recorder({**arguments, **known}, bits):
            rounded = means(model, arguments, **known)["x"]
    return float((rounded - exact).abs().max())


def explorer(run: Run, room: int) -> tuple[str, str]:
    """Return what the page's explorer takes, as JSON, and a sentence about it.

    Large weights are rounded to 16 bits, and to 8 where the result does not fit into `room` otherwise.

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
    names, conditions = recipe.conditions(run)
    arguments = {name: values[:1].float().cpu() for name, values in conditions.items()}
    with eval_mode(model), Record() as p:
        model(batch=1, **arguments)
    if not {"x", site} <= p.sites.keys() or len(p.sites[site].fn.event_shape) != 1:
        raise UserError(f"the story must have data x and a latent {site} [latent]; its sites are {', '.join(p.sites)}")
    test = run.dataset.test[:MOST_LATENTS]
    z = recipe.encode(run, test).float().cpu()
    known = {site: z[:1].clone()}
    before = itertools.takewhile(lambda name: name != site, p.sites)
    category = next((name for name in before if p.sites[name].fn.has_enumerate_support), None)
    choices: list[dict[str, Any]]
    if conditions:
        (name, values), *_ = conditions.items()
        choices = [{"name": "given", "site": name, "values": names, "inputs": packed(values)}]
        goals, goal = means(model, {name: values.float().cpu()})[site], f"p({site} | {name})"
    elif category:
        support = p.sites[category].fn.enumerate_support()[:, 0]
        known[category] = support[:1].clone()
        names = [*recipe.category_names(run.dataset)] or [str(k) for k in range(len(support))]
        choices = [{"name": category, "site": category, "values": names}]
        goals, goal = means(model, None, **{category: support})[site], f"p({site} | {category})"
    else:
        choices, landmarks, goal = recipe.landmarks(run)
        goals = z[:0] if landmarks is None else landmarks
    both = torch.cat([z, goals])
    margin = 0.05 * (both.amax(0) - both.amin(0)) + 1e-3
    order = z.std(0, correction=0).argsort(descending=True).tolist()
    content = {
        "latent": site,
        "shape": run.dataset.shape,
        "columns": _columns(run),
        "order": order,
        "low": (both.amin(0) - margin).tolist(),
        "high": (both.amax(0) + margin).tolist(),
        "planes": _planes(z, order, site),
        "latents": packed(z),
        "labels": None if test.labels is None else [None if k < 0 else k for k in test.labels.tolist()],
        "classes": list(run.dataset.classes),
        "choices": choices,
        "goals": packed(goals),
        "goal": goal,
        "heads": recipe.heads(run.dataset),
    }
    if not run.dataset.is_table:
        train = run.dataset.train[:: -(-len(run.dataset.train) // MOST_NEIGHBOURS)]
        content |= {"images": sprite(_intensities(test)), "train": sprite(_intensities(train)), "trained": len(train)}
    for bits in (16, 8):
        program = decoder_program(model, arguments, known, bits)
        if len(text := json.dumps(content | {"program": program})) <= room:
            error = rounding_error(model, _repeated(arguments, z), {**_repeated(known, z), site: z}, bits)
            moved = f"which move no {_unit(run)} at these latents by more than {error:.1g}"
            weights = f"{bits}-bit weights, {moved}" if error else "the very weights of the run"
            return text, _sentence(site, len(z), weights)
    size, free = (number / 1e6 for number in (len(text), room))
    raise UserError(f"the weights would take {size:.1f} MB of the page, in which {free:.1f} MB are left")


def _repeated(values: Mapping[str, Tensor], like: Tensor) -> dict[str, Tensor]:
    return {name: value.expand(len(like), *value.shape[1:]).contiguous() for name, value in values.items()}


def _intensities(split: Split) -> Tensor:
    return to_float(split.x, "grey").cpu()  # of dynamic pixels too: draws of them would change from page to page


def _unit(run: Run) -> str:
    return "standardised column" if run.dataset.is_table else "pixel"


def _sentence(site: str, count: int, weights: str) -> str:
    return (
        f"Each dot is the latent {site} of one of {count} test data. Point at one to see it, click it to start from "
        f"it, drag anywhere or use the arrow keys to move. The page itself decodes, with {weights}."
    )


def _columns(run: Run) -> list[dict[str, Any]]:
    """Return the name of each column of a table, and what turns its standardised values into its own unit."""
    return [
        {"name": name, "loc": float(column.loc), "scale": float(column.scale)}
        for column in (run.preprocessing.columns if run.dataset.is_table else ())
        for name in column.names
    ]


def _planes(z: Tensor, order: list[int], site: str) -> list[dict[str, Any]]:
    """Return the planes that the page can show latents [n, latent] in, each with its `name`.

    Pairs of dimensions and the principal axes have two `axes`, unit vectors. An embedding by t-SNE has `positions`,
    packed shares [n, 2] of the plane: from a place there follows no latent.
    """
    if len(order) == 1:
        return []
    unit = torch.eye(len(order))
    planes: list[dict[str, Any]] = []
    for across, up in list(zip(order[::2], order[1::2], strict=False))[:PAIRS]:
        planes.append({"name": f"{site}[{across}], {site}[{up}]", "axes": unit[[across, up]].tolist()})
    if len(order) > 2:
        _, s, axes = torch.linalg.svd(z - z.mean(0), full_matrices=False)
        share = float(s[:2].square().sum() / s.square().sum())
        planes.append({"name": f"principal axes ({share:.0%} of the variance)", "axes": axes[:2].tolist()})
    if len(order) > 2 and len(z.unique(dim=0)) >= FEWEST_EMBEDDED:
        positions = plots.tsne(z)
        low, high = positions.amin(0), positions.amax(0)
        shares = 0.05 + 0.9 * (positions - low) / (high - low)
        planes.append({"name": f"t-SNE of {len(order)} dimensions", "positions": packed(shares, 16)})
    return planes
