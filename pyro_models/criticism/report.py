"""The pictures of a run, and one page that holds them and needs nothing else."""

import base64
import dataclasses
import html
import inspect
import json
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.animation import FuncAnimation, PillowWriter

from pyro_models.base.errors import UserError
from pyro_models.base.files import replace, write
from pyro_models.base.names import WEIGHTED
from pyro_models.criticism import figures
from pyro_models.criticism.compare import compare, table
from pyro_models.criticism.kinds import SCORES, infer_kinds, matching
from pyro_models.criticism.kinds import confusion as count
from pyro_models.criticism.metrics import codes, decode, draw, evaluation
from pyro_models.criticism.units import units
from pyro_models.data import Batches, cut

if TYPE_CHECKING:
    from pyro_models.training.run import Run

MOST_POINTS = 2000  # in a t-SNE, whose time grows faster than its points


def learning_curves(run: "Run") -> dict[str, Any]:
    """Draw the terms over the epochs: training and test together, and each alone."""
    names = [name.removeprefix("train_") for name in run.metrics[0] if name.startswith("train_")]
    alone = {name for name in names if f"test_{name}" not in run.metrics[0]}  # of training
    wanted = [name for name in names if name not in alone | {"mse"}] if run.recipe.generative else ["mse"]
    terms = {name: units(run, name) for name in wanted}
    return {
        "learning-curves": figures.learning_curves(run.metrics, terms),
        "learning-curves-train": figures.learning_curves(run.metrics, terms, ["train"]),
        "learning-curves-test": figures.learning_curves(run.metrics, terms, ["test"]),
        **_more_curves(run, alone - {"loss"}),
    }


def _more_curves(run: "Run", alone: set[str]) -> dict[str, Any]:
    """Draw the terms beside the bound, which training alone has, and the scores of kinds, which it has not."""
    more = {"terms": (sorted(alone), ["train"])}
    more["scores"] = ([name for name in SCORES if f"test_{name}" in run.metrics[0]], ["validation", "test"])
    return {
        f"learning-curves-{title}": figures.learning_curves(
            run.metrics, {name: units(run, name) for name in names}, splits
        )
        for title, (names, splits) in more.items()
        if names
    }


def reconstructions(run: "Run") -> dict[str, Any]:
    """Draw fixed test images above what some epochs, and the last, made of them; and as an animation."""
    if not run.frames["examples"]:
        return {}
    originals = cut(run.dataset.test.x[run.frames["examples"]], run.recipe.pixels)
    frames, epochs = torch.stack(run.frames["images"]) / 255, run.frames["epochs"]
    chosen = sorted({0, len(epochs) // 4, len(epochs) - 1})
    stills = {
        f"reconstructions-epoch-{epochs[k]}": figures.reconstructions(originals, frames[k], f"epoch {epochs[k]}")
        for k in chosen
    }
    if len(epochs) == 1:
        return stills
    return stills | {"reconstructions": figures.reconstruction_animation(originals, frames, epochs)}


def latent_map(run: "Run") -> dict[str, Any]:
    """Draw the test set's codes in the plane, coloured by label: as they are, or laid out by t-SNE."""
    split, limit = run.dataset.test, None
    if run.recipe.latent_dim > 2:
        split = split[: min(len(split), MOST_POINTS)]
    z = codes(run.guide, split, run.recipe.pixels)
    title = f"t-SNE of the {z.shape[1]}-D codes of {len(split)} test data"
    if run.recipe.latent_dim == 2:
        title, limit = "mean of q(z | x) for each test datum", float(z.abs().max() * 1.05)
    panels = {title: z if limit else figures.tsne(z)}
    maps = {"latent-map": figures.plane(panels, split.labels, limit)}
    if run.recipe.kinds:
        inferred = infer_kinds(run.guide, split, run.recipe.pixels)
        maps["latent-map-by-kind"] = figures.plane(panels, inferred, limit, "kind")
    return maps


def pixels_and_codes(run: "Run") -> dict[str, Any]:
    """Draw t-SNE maps of the raw pixels and of the codes side by side."""
    some = run.dataset.test[: min(len(run.dataset.test), MOST_POINTS)]
    panels = {
        "t-SNE of raw pixels": figures.tsne(cut(some.x, run.recipe.pixels)),
        f"t-SNE of {run.recipe.latent_dim}-D codes": figures.tsne(codes(run.guide, some, run.recipe.pixels)),
    }
    return {"pixels-and-codes": figures.plane(panels, some.labels)}


def decoded_plane(run: "Run") -> dict[str, Any]:
    """Draw what the decoder makes of a grid over the plane, where the codes have two dimensions."""
    if run.recipe.latent_dim != 2:
        return {}
    z = codes(run.guide, run.dataset.test, run.recipe.pixels)
    lower, upper = z.quantile(0.01, dim=0), z.quantile(0.99, dim=0)
    images = decode(run.model, figures.plane_of_codes(lower, upper, 20).to(z))
    extent = (float(lower[0]), float(upper[0]), float(lower[1]), float(upper[1]))
    title = f"mean image at each code ({run.recipe.pixels} pixels)"
    return {"decoded-plane": figures.image_grid(images.clamp(0, 1), 20, title, extent)}


def prior_samples(run: "Run") -> dict[str, Any]:
    """Draw the story's own images: z from the prior, then the mean of x given z."""
    z = torch.randn(100, run.recipe.latent_dim).to(next(run.model.parameters()))
    images = decode(run.model, z)
    title = f"mean images at codes drawn from the prior ({run.recipe.pixels} pixels)"
    return {"prior-samples": figures.image_grid(images.clamp(0, 1), 10, title)}


def kinds(run: "Run") -> dict[str, Any]:
    """Draw ten images of each kind, a row a kind: z from p(z | y), then the mean of x given z."""
    if run.dataset.is_table:
        return {}
    images = _of_each_kind(run, 10, "x")["x"]
    title = f"ten mean images of each kind y, z drawn from p(z | y) ({run.recipe.pixels} pixels)"
    return {"kinds": figures.image_grid(images.clamp(0, 1), 10, title)}


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
    return {"prior-of-kinds": figures.components((z @ axes).chunk(kinds), loc @ axes, covariances, name)}


def confusion(run: "Run") -> dict[str, Any]:
    """Draw which kinds the test data of each label fall to; kinds in the order of the labels they match."""
    split, kinds = run.dataset.test, run.recipe.kinds
    if split.labels is None:
        return {}
    labels, ranks = split.labels.unique(return_inverse=True)
    counts = count(infer_kinds(run.guide, split, run.recipe.pixels), ranks, kinds)
    first = [kind for kind, _ in matching(counts)]
    order = first + [kind for kind in range(kinds) if kind not in first]
    return {"confusion": figures.confusion(counts[order], order, labels.tolist())}


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
    return {"points": figures.points(x @ axes, inferred, (drawn @ axes)[:n], kinds_drawn[:n], names, density)}


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


def _density(run: "Run", z: torch.Tensor) -> figures.Density:
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
        points,
    )
}


def write_pictures(run: "Run") -> None:
    """Write the recipe's pictures to the run's folder `figures`, in the recipe's order.

    Raises:
        UserError: the run kept no reconstructions (its checkpoint is gone), or a picture cannot be written.
    """
    if not run.metrics:
        raise UserError(f"{run.folder} holds no checkpoint.pt, from which the pictures are drawn")
    folder = run.folder / "figures"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("[0-9][0-9]-*.*"):
        old.unlink()
    number = 0
    for name in run.recipe.figures:
        with evaluation(run.model, run.guide, seed=run.recipe.seed):
            pictures = PICTURES[name](run)
        for title, picture in pictures.items():
            number += 1
            stem = folder / f"{number:02d}-{title}"
            if isinstance(picture, FuncAnimation):
                replace(stem.with_suffix(".gif"), partial(picture.save, writer=PillowWriter(fps=6), dpi=60))
            else:
                replace(stem.with_suffix(".png"), partial(picture.savefig, dpi=110))


def write_comparison(run: "Run", names: list[str], particles: int, draws: int, batches: int) -> str:
    """Compare estimators, all at beta 1, at a run's weights, and write compare.json and figures/compare.png.

    Returns:
        the table, in Markdown.

    Raises:
        UserError: the run's recipe does not take one of the estimators.
    """
    recipe, unit = run.recipe, run.recipe.unit(run.dataset)
    estimators, of = {}, {}
    for name in names:
        one: Any = dataclasses.replace(
            recipe,
            elbo=name,  # type: ignore[arg-type]
            beta=1.0,
            particles=particles if name in WEIGHTED else 1,
            alpha=recipe.alpha if name == "renyi" else type(recipe).alpha,
        )
        estimators[name] = one.bound()
        of[name] = one.bound_of
    cutter = Batches(run.dataset.train, recipe.pixels, recipe.batch_size, recipe.seed)
    with evaluation(run.model, run.guide):  # the same noise in dynamic pixels each time
        cutting = list(islice(cutter.epoch(0), batches))
    found = compare(run.model, run.guide, estimators, cutting, draws=draws)
    written = {name: one.as_json() | {"bound_of": of[name]} for name, one in found.items()}
    content = json.dumps({"unit": unit, "estimators": written}, indent=2, allow_nan=False)
    write(run.folder / "compare.json", content + "\n")
    picture = figures.comparison(
        {name: (one.bound, one.error) for name, one in found.items()},
        {name: one.signal_to_noise for name, one in found.items()},
        {name: one.milliseconds for name, one in found.items()},
        unit,
    )
    replace(run.folder / "figures" / "compare.png", partial(picture.savefig, dpi=110))
    return f"{table(found, of.__getitem__)}\n\nbounds in {unit}; {run.folder / 'figures' / 'compare.png'}"


def write_report(run: "Run", results: dict[str, Any]) -> None:
    """Write report.html: the story and the guide, the figures, the pictures and the command, in one file."""
    pictures = "\n".join(
        f'<figure><img alt="{path.stem}" src="data:image/{path.suffix[1:]};base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}">'
        f"<figcaption>{path.stem[3:].replace('-', ' ')}</figcaption></figure>"
        for path in sorted((run.folder / "figures").glob("[0-9][0-9]-*.*"))
    )
    rows = "\n".join(
        f"<tr><td>{name}</td><td>{results['test'][name]:.4f}</td><td>{results['validation'][name]:.4f}</td>"
        f"<td>{results['units'][name]}</td></tr>"
        for name in results["test"]
    )
    options = ", ".join(f"{name} = {value}" for name, value in run.recipe.as_json().items())
    page = PAGE.format(
        title=html.escape(f"{run.recipe.name} on {run.recipe.data}"),
        story=_docstring(run.model),
        guide=_docstring(run.guide),
        rows=rows,
        images=results["images"]["test"],
        epochs=results["epochs"],
        seconds=results["seconds"],
        command=html.escape(results["command"]),
        options=html.escape(options),
        pictures=pictures,
    )
    write(run.folder / "report.html", page)


def _docstring(half: object) -> str:
    return html.escape(inspect.getdoc(type(half)) or "").split("\nArgs:")[0].strip()


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
pre {{ background: #f5f5f2; padding: 1rem; overflow-x: auto; white-space: pre-wrap; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: 0.2rem 1.2rem 0.2rem 0; text-align: left; }}
td:nth-child(2), td:nth-child(3) {{ font-variant-numeric: tabular-nums; }}
img {{ max-width: 100%; }}
figure {{ margin: 2rem 0; }}
figcaption {{ color: #666; }}
</style>
<h1>{title}</h1>
<h2>Story</h2>
<pre>{story}</pre>
<h2>Guide</h2>
<pre>{guide}</pre>
<h2>Figures after {epochs} epochs</h2>
<table>
<tr><th>name</th><th>test ({images})</th><th>validation</th><th>unit</th></tr>
{rows}
</table>
<p>Trained in {seconds} seconds with</p>
<pre>{command}</pre>
<details><summary>every option</summary><p>{options}</p></details>
<h2>Pictures</h2>
{pictures}
</html>
"""
