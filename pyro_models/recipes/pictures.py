"""The pictures of a run, by name: what a recipe lists is drawn."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pyro_models import plots
from pyro_models.data import batch_of, encoded, to_float
from pyro_models.metrics.attributes import imagined_by, queries, said
from pyro_models.metrics.clusters import SCORES, infer_kinds, matching, per_class
from pyro_models.metrics.clusters import confusion as count
from pyro_models.metrics.evaluation import codes, decode, draw, evaluation
from pyro_models.objectives import Paired, adversary
from pyro_models.recipes.units import units

if TYPE_CHECKING:
    from pyro_models.runs.folder import Run

MOST_POINTS = 2000  # in a t-SNE, whose time grows faster than its points


def learning_curves(run: "Run") -> dict[str, Any]:
    """Draw the terms over the epochs: training and test together, and each alone."""
    names = [name.removeprefix("train_") for name in run.metrics[0] if name.startswith("train_")]
    alone = {name for name in names if f"test_{name}" not in run.metrics[0]}  # of training
    wanted = [name for name in names if name not in alone | {"mse"}]
    if run.recipe.explains == "x" and not run.recipe.generative:
        wanted = ["mse"]
    terms = {name: units(run, name) for name in wanted}
    return {
        "learning-curves": plots.learning_curves(run.metrics, terms),
        "learning-curves-train": plots.learning_curves(run.metrics, terms, ["train"]),
        "learning-curves-test": plots.learning_curves(run.metrics, terms, ["test"]),
        **_more_curves(run, alone - {"loss"}),
    }


def _more_curves(run: "Run", alone: set[str]) -> dict[str, Any]:
    """Draw the terms beside the bound, which training alone has, and the scores of kinds, which it has not."""
    more = {"terms": (sorted(alone), ["train"])}
    more["scores"] = ([name for name in SCORES if f"test_{name}" in run.metrics[0]], ["validation", "test"])
    return {
        f"learning-curves-{title}": plots.learning_curves(
            run.metrics, {name: units(run, name) for name in names}, splits
        )
        for title, (names, splits) in more.items()
        if names
    }


def reconstructions(run: "Run") -> dict[str, Any]:
    """Draw fixed test images above what some epochs, and the last, made of them; and as an animation."""
    if not run.frames["examples"]:
        return {}
    originals = to_float(run.dataset.test.x[run.frames["examples"]], run.recipe.pixels)
    frames, epochs = torch.stack(run.frames["images"]) / 255, run.frames["epochs"]
    chosen = sorted({0, len(epochs) // 4, len(epochs) - 1})
    stills = {
        f"reconstructions-epoch-{epochs[k]}": plots.reconstructions(originals, frames[k], f"epoch {epochs[k]}")
        for k in chosen
    }
    if len(epochs) == 1:
        return stills
    return stills | {"reconstructions": plots.reconstruction_animation(originals, frames, epochs)}


def latent_map(run: "Run") -> dict[str, Any]:
    """Draw the test set's codes in the plane, coloured by label or attribute: as they are, or laid out by t-SNE."""
    split, limit = run.dataset.test, None
    if run.recipe.latent_dim > 2:
        split = split[: min(len(split), MOST_POINTS)]
    z = codes(run.guide, split, run.recipe.pixels)
    title = f"t-SNE of the {z.shape[1]}-D codes of {len(split)} test data"
    if run.recipe.latent_dim == 2:
        title, limit = "mean of q(z | x) for each test datum", float(z.abs().max() * 1.05)
    panels = {title: z if limit else plots.tsne(z)}
    if len(run.attributes) > 1:
        maps = {}
        for attribute, codes_of in zip(run.attributes, split.attributes.T, strict=True):  # type: ignore[union-attr]
            known = {name: points[codes_of >= 0] for name, points in panels.items()}
            colours = plots.latent_map(known, codes_of[codes_of >= 0], limit, attribute.name, attribute.values)
            maps[f"latent-map-by-{attribute.name}"] = colours
        return maps
    maps = {"latent-map": plots.latent_map(panels, split.labels, limit)}
    if run.recipe.kinds:
        inferred = infer_kinds(run.guide, split, run.recipe.pixels)
        maps["latent-map-by-kind"] = plots.latent_map(panels, inferred, limit, "kind")
    return maps


def pixels_and_codes(run: "Run") -> dict[str, Any]:
    """Draw t-SNE maps of the raw pixels and of the codes side by side."""
    some = run.dataset.test[: min(len(run.dataset.test), MOST_POINTS)]
    panels = {
        "t-SNE of raw pixels": plots.tsne(to_float(some.x, run.recipe.pixels)),
        f"t-SNE of {run.recipe.latent_dim}-D codes": plots.tsne(codes(run.guide, some, run.recipe.pixels)),
    }
    return {"pixels-and-codes": plots.latent_map(panels, some.labels)}


def decoded_plane(run: "Run") -> dict[str, Any]:
    """Draw what the decoder makes of a grid over the plane, where the codes have two dimensions."""
    if run.recipe.latent_dim != 2:
        return {}
    z = codes(run.guide, run.dataset.test, run.recipe.pixels)
    lower, upper = z.quantile(0.01, dim=0), z.quantile(0.99, dim=0)
    if run.recipe.multimodal:
        lower, upper = torch.full_like(lower, -3.0), torch.full_like(upper, 3.0)
    images = decode(run.model, plots.latent_grid(lower, upper, 20).to(z))
    extent = (float(lower[0]), float(upper[0]), float(lower[1]), float(upper[1]))
    title = f"mean image at each code ({run.recipe.pixels} pixels)"
    return {"decoded-plane": plots.image_grid(images.clamp(0, 1), 20, title, extent)}


def prior_samples(run: "Run") -> dict[str, Any]:
    """Draw the story's own images: z from the prior, then the mean of x given z."""
    z = torch.randn(100, run.recipe.latent_dim).to(next(run.model.parameters()))
    images = decode(run.model, z)
    title = f"mean images at codes drawn from the prior ({run.recipe.pixels} pixels)"
    return {"prior-samples": plots.image_grid(images.clamp(0, 1), 10, title)}


def kinds(run: "Run") -> dict[str, Any]:
    """Draw ten images of each kind, a row a kind: z from p(z | y), then the mean of x given z."""
    if run.dataset.is_table:
        return {}
    images = _of_each_kind(run, 10, "x")["x"]
    title = f"ten mean images of each kind y, z drawn from p(z | y) ({run.recipe.pixels} pixels)"
    return {"kinds": plots.image_grid(images.clamp(0, 1), 10, title)}


def prior_of_kinds(run: "Run") -> dict[str, Any]:
    """Draw p(z | y) of each kind; more than two dimensions along the two in which the kinds differ most."""
    if run.recipe.latent_dim < 2:
        return {}
    kinds = run.recipe.kinds
    z = _of_each_kind(run, 1000, "z")["z"].cpu()
    with evaluation(run.model):
        prior: Any = run.model.prior(_one_hot(run, 1))  # type: ignore[operator]
    loc, scale = prior.mean.cpu(), prior.stddev.cpu()
    if run.recipe.latent_dim == 2:
        axes, name = torch.eye(2), "z"
    else:
        axes, name = torch.linalg.svd(loc - loc.mean(0), full_matrices=False).Vh[:2].T, "principal axes of loc(y): z"
    covariances = axes.T @ torch.diag_embed(scale.square()) @ axes
    return {"prior-of-kinds": plots.components((z @ axes).chunk(kinds), loc @ axes, covariances, name)}


def confusion(run: "Run") -> dict[str, Any]:
    """Draw which kinds the test data of each label fall to; kinds in the order of the labels they match or are."""
    split, kinds = run.dataset.test, run.recipe.kinds
    if split.labels is None:
        return {}
    inferred = infer_kinds(run.guide, split, run.recipe.pixels)
    if run.recipe.labels:
        return {"confusion": plots.confusion_matrix(count(inferred, split.labels, kinds), range(kinds))}
    labels, ranks = split.labels.unique(return_inverse=True)
    counts = count(inferred, ranks, kinds)
    first = [kind for kind, _ in matching(counts)]
    order = first + [kind for kind in range(kinds) if kind not in first]
    return {"confusion": plots.confusion_matrix(counts[order], order, labels.tolist())}


def scores_of_classes(run: "Run") -> dict[str, Any]:
    """Draw precision, recall and F1 of each class."""
    split = run.dataset.test
    if split.labels is None or not run.recipe.labels:
        return {}
    scores = per_class(infer_kinds(run.guide, split, run.recipe.pixels), split.labels, run.recipe.kinds)
    return {"scores-of-classes": plots.class_scores({name: scores[name] for name in ("precision", "recall", "f1")})}


def adversaries(run: "Run") -> dict[str, Any]:
    """Draw the test images that a step of the length `--radius` changes the most: before, the step, after."""
    recipe: Any = run.recipe
    if run.dataset.is_table or not recipe.vat:
        return {}
    x = to_float(run.dataset.test.x[:MOST_POINTS], recipe.pixels)
    classify: Any = Paired(run.guide.classify)  # type: ignore[arg-type]
    lengths = {"radius": recipe.radius, "finite_difference": recipe.finite_difference, "iterations": 5}
    found = []
    for part in x.split(250):
        before = classify(part).logits
        step = adversary(classify, part, before, **lengths)
        found.append((before, step, classify(part + step).logits))
    before, step, after = map(torch.cat, zip(*found, strict=True))
    worst = (before.exp() * (before - after)).sum(-1).argsort(descending=True)[:10]

    def said(log_q: torch.Tensor) -> list[str]:
        return [f"{int(row.argmax())} ({float(row.max()):.2f})" for row in log_q[worst].exp()]

    title = (
        f"the ten of {len(x)} test images whose guess (and its probability) a step of {recipe.radius:g} changes most"
    )
    drawn = plots.adversarial_steps(x[worst], step[worst], said(before), said(after), title)
    return {"adversaries": drawn}


def labelled(run: "Run") -> dict[str, Any]:
    """Draw the images whose labels were seen (at most 200 of them), by label."""
    _, seen = run.recipe.pools(run.dataset.train)
    if run.dataset.is_table or seen is None or seen.labels is None:
        return {}
    some = seen[:200]
    images = to_float(some[some.labels.argsort()].x, run.recipe.pixels)  # type: ignore[union-attr]
    blank = images.new_zeros(-len(images) % 20, *images.shape[1:])
    title = f"{'' if len(images) == len(seen) else f'{len(images)} of '}the {len(seen)} images whose labels were seen"
    return {"labelled": plots.image_grid(torch.cat([images, blank]), 20, title)}


def imagined(run: "Run") -> dict[str, Any]:
    """Draw images for what can be given of attributes, a row a combination: all of them, and each alone."""
    drawn = {}
    for title, asked in _conditions(run).items():
        some = asked[_spread(len(asked), 20)]
        x = imagined_by(run, some.repeat_interleave(10, 0))
        names = [said(run.attributes, codes) for codes in some]
        heading = f"ten images each, z from q(z | {title}) ({run.recipe.pixels} pixels)"
        stem = title.replace(", ", "-and-")
        drawn[f"images-from-{stem}"] = plots.image_rows(x.clamp(0, 1).unflatten(0, (-1, 10)), names, heading)
    return drawn


def given(run: "Run") -> dict[str, Any]:
    """Draw codes from q(z | what is given of the attributes), where they have two dimensions: all of them, and each."""
    if run.recipe.latent_dim != 2:
        return {}
    panels = {}
    for title, asked in _conditions(run).items():
        q = run.guide.posterior(**encoded(run.attributes, asked))  # type: ignore[operator]
        z = q.sample(torch.Size([300])).transpose(0, 1)
        panels[f"z from q(z | {title})"] = {said(run.attributes, asked[k]): z[k] for k in _spread(len(asked), 10)}
    return {"codes-given-attributes": plots.scatter(panels)}


def scales(run: "Run") -> dict[str, Any]:
    """Draw the codes of test images from x and from x with its attributes, as discs of the size of their scale."""
    if run.recipe.latent_dim != 2:
        return {}
    some = run.dataset.test[:300]
    y = batch_of(some, run.recipe.pixels, run.attributes)
    x = y.pop("x")
    rows, kinds = torch.unique(some.attributes, dim=0, return_inverse=True)
    groups = {said(run.attributes, rows[k]): kinds == k for k in _spread(len(rows), 10)}
    panels: dict[str, dict[str, torch.Tensor]] = {}
    sizes: dict[str, dict[str, torch.Tensor]] = {}
    for title, known in (("q(z | x), one sd as the radius", {}), ("q(z | x, y), likewise", y)):
        q = run.guide.posterior(x, **known)  # type: ignore[operator]
        panels[title] = {name: q.mean[member] for name, member in groups.items()}
        sizes[title] = {name: q.stddev.mean(-1)[member] for name, member in groups.items()}
    return {"codes-of-images": plots.scatter(panels, sizes)}


def borders(run: "Run") -> dict[str, Any]:
    """Draw where in the plane the story changes its mind of each attribute, and where the test data of each lie."""
    if run.recipe.latent_dim != 2:
        return {}
    z = codes(run.guide, run.dataset.test, run.recipe.pixels)
    limit = max(3.0, float(z.abs().max()))
    grid = plots.latent_grid(z.new_full((2,), -limit), z.new_full((2,), limit), 120).to(z)
    panels = {}
    for i, (head, attribute) in enumerate(zip(run.model.heads.values(), run.attributes, strict=True)):  # type: ignore[operator]
        logits = head(grid) if attribute.size > 1 else F.pad(head(grid), (1, 0))  # of a bit: the logit of 0 is 0
        panels[attribute.name] = (logits.softmax(-1), run.dataset.test.attributes[:, i], attribute.values)  # type: ignore[index]
    return {"borders": plots.decision_regions(panels, z, limit)}


def _spread(count: int, most: int) -> list[int]:
    """Return all of `count` indices, or `most` drawn from all over, in order."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most].sort().values.tolist()


def _conditions(run: "Run") -> dict[str, torch.Tensor]:
    """What can be given: all attributes, and each alone; from a title to codes, [combinations, attributes]."""
    attributes = run.attributes
    whole = {", ".join(attribute.name for attribute in attributes): queries(run.dataset.test, len(attributes))}
    alone = queries(run.dataset.test, 1) if len(attributes) > 1 else torch.empty(0)
    for i, attribute in enumerate(attributes if len(attributes) > 1 else ()):
        whole[attribute.name] = alone[alone[:, i] >= 0]
    return {title: asked.unique(dim=0) for title, asked in whole.items() if len(asked)}  # sorted


def points(run: "Run") -> dict[str, Any]:
    """Draw a table by kind, draws from the story, and its density; more than two columns by their principal axes."""
    x, columns = run.dataset.train.x.cpu(), len(run.dataset.columns)
    if columns < 2:
        return {}
    inferred = infer_kinds(run.guide, run.dataset.train, run.recipe.pixels).cpu()
    told = draw(run.model, ["y", "z"], 4000)
    drawn, kinds_drawn = _replicates(run, told["z"]).cpu(), told["y"].argmax(-1).cpu()
    names, density, axes = run.dataset.columns, None, torch.eye(columns)
    if columns == 2:
        density = _density(run, told["z"])
    else:
        axes, names = torch.linalg.svd(x, full_matrices=False).Vh[:2].T, ("first principal axis", "second")
    n = len(x)
    return {"points": plots.mixture_points(x @ axes, inferred, (drawn @ axes)[:n], kinds_drawn[:n], names, density)}


def _one_hot(run: "Run", each: int) -> torch.Tensor:
    eye = torch.eye(run.recipe.kinds, device=next(run.model.parameters()).device)
    return eye.repeat_interleave(each, 0)


def _of_each_kind(run: "Run", each: int, *sites: str) -> dict[str, torch.Tensor]:
    y = _one_hot(run, each)
    return draw(run.model, sites, len(y), y=y)


def _replicates(run: "Run", z: torch.Tensor) -> torch.Tensor:
    """Draw x, noise and all, at codes z."""
    with evaluation(run.model):
        return run.model.likelihood(run.model.decoder(z)).sample()  # type: ignore[operator]


def _density(run: "Run", z: torch.Tensor) -> plots.Density:
    """p(x) as the average of p(x | z) over codes that the story drew."""

    def density(x: torch.Tensor) -> torch.Tensor:
        with evaluation(run.model):
            each = run.model.likelihood(run.model.decoder(z))  # type: ignore[operator]
            parts = [each.log_prob(part.to(z)[:, None]).exp().mean(-1) for part in x.split(500)]
        return torch.cat(parts).cpu()

    return density


PICTURES: dict[str, Callable[["Run"], dict[str, Any]]] = {
    picture.__name__: picture
    for picture in (
        learning_curves,
        reconstructions,
        latent_map,
        pixels_and_codes,
        decoded_plane,
        prior_samples,
        kinds,
        prior_of_kinds,
        confusion,
        scores_of_classes,
        adversaries,
        labelled,
        imagined,
        given,
        scales,
        borders,
        points,
    )
}
