"""Clusters or classes of a run: against the labels, and as the story generates them."""

from typing import Any

import torch
from torch import Tensor

from pyro_models import metrics, plots
from pyro_models.metrics import Trained


def samples_of_clusters(run: Trained) -> dict[str, Any]:
    """Draw ten images of each cluster, a row each: z from p(z | y), then the mean of x given z."""
    if run.dataset.is_table:
        return {}
    y = _each_cluster(run, 10)
    images = metrics.generate(run.model, ["x"], len(y), y=y)["x"]
    title = f"ten mean images of each cluster y, z drawn from p(z | y) ({run.recipe.pixels} pixels)"
    return {"clusters": plots.image_grid(images.clamp(0, 1), 10, title)}


def prior_of_clusters(run: Trained) -> dict[str, Any]:
    """Draw p(z | y) of each cluster; more than two dimensions along the two in which the clusters differ most."""
    if run.recipe.latent_dim < 2:
        return {}
    y = _each_cluster(run, 1000)
    z = metrics.generate(run.model, ["z"], len(y), y=y)["z"].cpu()
    with metrics.eval_mode(run.model):
        prior: Any = run.model.prior(_each_cluster(run, 1))  # type: ignore[operator]
    loc, scale = prior.mean.cpu(), prior.stddev.cpu()
    if run.recipe.latent_dim == 2:
        axes, name = torch.eye(2), "z"
    else:
        axes, name = torch.linalg.svd(loc - loc.mean(0), full_matrices=False).Vh[:2].T, "principal axes of loc(y): z"
    covariances = axes.T @ torch.diag_embed(scale.square()) @ axes
    return {"prior-of-clusters": plots.components((z @ axes).chunk(len(loc)), loc @ axes, covariances, name)}


def confusion(run: Trained) -> dict[str, Any]:
    """Draw how many test data of each label fall to each category, ordered by the labels that they match or are."""
    test, categories, names = run.dataset.test.labelled(), run.recipe.categories(run.dataset), run.dataset.classes
    labels = test.labels
    if labels is None or len(test) == 0:
        return {}
    inferred = run.recipe.infer(run, test)
    if run.recipe.labels:
        counts = metrics.contingency(inferred, labels, categories)
        classes = names[: counts.shape[1]] or None
        return {"confusion": plots.confusion_matrix(counts, range(categories), classes, name="class")}
    values, ranks = labels.unique(return_inverse=True)
    counts = metrics.contingency(inferred, ranks, categories)
    first = [cluster for cluster, _ in metrics.matching(counts)]
    order = first + [cluster for cluster in range(categories) if cluster not in first]
    return {
        "confusion": plots.confusion_matrix(counts[order], order, [names[k] if names else k for k in values.tolist()])
    }


def scores_of_classes(run: Trained) -> dict[str, Any]:
    """Draw precision, recall and F1 of each class."""
    test = run.dataset.test.labelled()
    if test.labels is None or len(test) == 0 or not run.recipe.labels:
        return {}
    scores = metrics.per_class(run.recipe.infer(run, test), test.labels, run.recipe.categories(run.dataset))
    return {"scores-of-classes": plots.class_scores({name: scores[name] for name in ("precision", "recall", "f1")})}


def points(run: Trained) -> dict[str, Any]:
    """Draw a table by cluster, draws from the story, and its density; over two columns by their principal axes."""
    x, columns = run.dataset.train.x.cpu(), len(run.dataset.columns)
    inputs = run.recipe.columns(run.dataset)
    if columns < 2:
        return {}
    inferred = run.recipe.infer(run, run.dataset.train).cpu()
    drawn = metrics.generate(run.model, ["y", "z"], 2000)
    rows, clusters = _sampled(run, drawn["z"]).cpu(), drawn["y"].argmax(-1).cpu()
    names, density, axes = run.dataset.columns, None, torch.eye(columns)
    if inputs is not None and not inputs.is_identity:
        x, rows = (inputs.cpu().standardised(each) for each in (x, rows))
    elif columns == 2:
        density = _density(run, drawn["z"])
    x = x.nan_to_num(0.0)  # the mean, where a value is missing
    if columns > 2:
        axes, names = torch.linalg.svd(x, full_matrices=False).Vh[:2].T, ("first principal axis", "second")
    n = len(x)
    return {"points": plots.mixture_points(x @ axes, inferred, (rows @ axes)[:n], clusters[:n], names, density)}


def _each_cluster(run: Trained, times: int) -> Tensor:
    eye = torch.eye(run.recipe.clusters, device=next(run.model.parameters()).device)
    return eye.repeat_interleave(times, 0)


def _sampled(run: Trained, z: Tensor) -> Tensor:
    """Draw x, noise and all, at latents z."""
    with metrics.eval_mode(run.model):
        return run.model.likelihood_of(z).sample()  # type: ignore[operator]


def _density(run: Trained, z: Tensor) -> plots.Density:
    """p(x) as the average of p(x | z) over latents that were drawn from the story."""

    def density(x: Tensor) -> Tensor:
        with metrics.eval_mode(run.model):
            likelihood = run.model.likelihood_of(z)  # type: ignore[operator]
            parts = [likelihood.log_prob(part.to(z)[:, None]).exp().mean(-1) for part in x.split(500)]
        return torch.cat(parts).cpu()

    return density
