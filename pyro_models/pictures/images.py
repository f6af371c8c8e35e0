"""Images of a run: reconstructions, samples, adversarial steps, the labelled data."""

from typing import Any

import torch

from pyro_models import metrics, plots
from pyro_models.data import to_float
from pyro_models.metrics import Trained
from pyro_models.objectives import SharedNoise, adversary


def reconstructions(run: Trained) -> dict[str, Any]:
    """Draw fixed test images above their reconstructions at some epochs and at the last."""
    if not run.frames["examples"]:
        return {}
    originals = to_float(run.dataset.test.x[run.frames["examples"]], run.recipe.pixels).cpu()
    frames, epochs = torch.stack(run.frames["images"]) / 255, run.frames["epochs"]
    chosen = sorted({0, len(epochs) // 4, len(epochs) - 1})
    rows, names = torch.stack([originals, *frames[chosen]]), ["image", *(f"epoch {epochs[k]}" for k in chosen)]
    return {"reconstructions": plots.image_rows(rows, names, "test images and their reconstructions")}


def prior_samples(run: Trained) -> dict[str, Any]:
    """Draw the mean images given latents that were drawn from the prior."""
    if run.dataset.is_table:
        return {}
    z = torch.randn(100, run.recipe.latent_dim).to(next(run.model.parameters()))
    images = metrics.decode(run.model, z, site=run.recipe.latent_site)
    title = f"mean images at latents drawn from the prior ({run.recipe.pixels} pixels)"
    return {"prior-samples": plots.image_grid(images.clamp(0, 1), 10, title)}


def adversaries(run: Trained) -> dict[str, Any]:
    """Draw the test images that an adversarial step changes the most: before, the step, after."""
    recipe = run.recipe
    if run.dataset.is_table or not recipe.vat:
        return {}
    x = to_float(run.dataset.test.x[:2000], recipe.pixels)
    classify: Any = SharedNoise(run.guide.classify)  # type: ignore[arg-type]
    lengths = {"radius": recipe.radius, "finite_difference": recipe.finite_difference, "iterations": 5}
    parts = []
    for part in x.split(250):
        before = classify(part).logits
        step = adversary(classify, part, before, **lengths)
        parts.append((before, step, classify(part + step).logits))
    before, step, after = map(torch.cat, zip(*parts, strict=True))
    worst = (before.exp() * (before - after)).sum(-1).argsort(descending=True)[:10]

    def predictions(log_q: torch.Tensor) -> list[str]:
        return [f"{int(row.argmax())} ({float(row.max()):.2f})" for row in log_q[worst].exp()]

    title = (
        f"the ten of {len(x)} test images whose predicted class (and its probability) a step of {recipe.radius:g} "
        "changes most"
    )
    return {
        "adversaries": plots.adversarial_steps(x[worst], step[worst], predictions(before), predictions(after), title)
    }


def labelled(run: Trained) -> dict[str, Any]:
    """Draw the images whose labels were seen (at most 200 of them), by label."""
    _, labelled_data = run.recipe.training_splits(run.dataset.train)
    if run.dataset.is_table or labelled_data is None or labelled_data.labels is None:
        return {}
    shown = labelled_data[:200]
    images = to_float(shown[shown.labels.argsort()].x, run.recipe.pixels)
    blank, count = images.new_zeros(-len(images) % 20, *images.shape[1:]), len(labelled_data)
    title = f"{'' if len(images) == count else f'{len(images)} of '}the {count} images whose labels were seen"
    return {"labelled": plots.image_grid(torch.cat([images, blank]), 20, title)}
