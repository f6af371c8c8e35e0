"""Images and latents of a run whose story has attributes, given some of these."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_models import metrics, plots
from pyro_models.data import one_hot_attributes
from pyro_models.metrics import Trained


def generated_images(run: Trained) -> dict[str, Any]:
    """Draw images given attributes, a row a combination: given all of them, and given each alone."""
    if run.dataset.is_table:
        return {}
    drawn = {}
    for title, values in _conditions(run).items():
        rows = values[_spread(len(values), 20)]
        x = run.recipe.generate(run, rows.repeat_interleave(10, 0))
        names = [metrics.describe(run.dataset.attributes, row) for row in rows]
        heading = f"ten images each, z from q(z | {title}) ({run.recipe.pixels} pixels)"
        stem = title.replace(", ", "-and-")
        drawn[f"images-from-{stem}"] = plots.image_rows(x.clamp(0, 1).unflatten(0, (-1, 10)), names, heading)
    return drawn


def latents_given_attributes(run: Trained) -> dict[str, Any]:
    """Draw latents from q(z | attributes given), where they have two dimensions: given all of them, and each alone."""
    if run.recipe.latent_dim != 2:
        return {}
    attributes, panels = run.dataset.attributes, {}
    for title, values in _conditions(run).items():
        q = run.guide.posterior(**one_hot_attributes(attributes, values))  # type: ignore[operator]
        z = q.sample(torch.Size([300])).transpose(0, 1)
        shown = _spread(len(values), 10)
        panels[f"z from q(z | {title})"] = {metrics.describe(attributes, values[k]): z[k] for k in shown}
    return {"latents-given-attributes": plots.scatter(panels)}


def latents_of_images(run: Trained) -> dict[str, Any]:
    """Draw q(z | x) and q(z | x, y) of test images in the plane, as discs whose radius is the scale."""
    if run.recipe.latent_dim != 2:
        return {}
    attributes, test = run.dataset.attributes, run.dataset.test[:300]
    y = run.recipe.batch(run.dataset, test)
    x = y.pop("x")
    rows, members = torch.unique(test.attributes, dim=0, return_inverse=True)
    groups = {metrics.describe(attributes, rows[k]): members == k for k in _spread(len(rows), 10)}
    panels: dict[str, dict[str, Tensor]] = {}
    sizes: dict[str, dict[str, Tensor]] = {}
    for title, given in (("q(z | x), radius: one standard deviation", {}), ("q(z | x, y), likewise", y)):
        q = run.guide.posterior(x, **given)  # type: ignore[operator]
        panels[title] = {name: q.mean[member] for name, member in groups.items()}
        sizes[title] = {name: q.stddev.mean(-1)[member] for name, member in groups.items()}
    return {"latents-of-images": plots.scatter(panels, sizes)}


def attribute_regions(run: Trained) -> dict[str, Any]:
    """Draw the decision regions of each attribute in the plane of latents, and the test data of each value."""
    if run.recipe.latent_dim != 2:
        return {}
    z = run.recipe.encode(run, run.dataset.test)
    limit = max(3.0, float(z.abs().max()))
    grid = plots.latent_grid(z.new_full((2,), -limit), z.new_full((2,), limit), 120).to(z)
    heads: Any = run.model.heads
    panels = {}
    for i, (head, attribute) in enumerate(zip(heads.values(), run.dataset.attributes, strict=True)):
        logits = head(grid) if attribute.size > 1 else F.pad(head(grid), (1, 0))  # of a bit: the logit of 0 is 0
        panels[attribute.name] = (logits.softmax(-1), run.dataset.test.attributes[:, i], attribute.values)  # type: ignore[index]
    return {"decision-regions": plots.decision_regions(panels, z, limit)}


def _spread(count: int, most: int) -> list[int]:
    """Return all of `count` indices, or `most` drawn from all over, in order."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most].sort().values.tolist()


def _conditions(run: Trained) -> dict[str, Tensor]:
    """Return conditions on all attributes and on each alone: from a title to indices [combinations, attributes]."""
    attributes = run.dataset.attributes
    given = {", ".join(each.name for each in attributes): metrics.queries(run.dataset.test, len(attributes))}
    alone = metrics.queries(run.dataset.test, 1) if len(attributes) > 1 else torch.empty(0)
    for i, attribute in enumerate(attributes if len(attributes) > 1 else ()):
        given[attribute.name] = alone[alone[:, i] >= 0]
    return {title: values.unique(dim=0) for title, values in given.items() if len(values)}  # sorted
