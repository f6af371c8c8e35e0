"""Latents of a run in the plane, and what is decoded there."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from pyro_models import metrics, plots
from pyro_models.data import Split, to_float
from pyro_models.metrics import Trained

MOST_POINTS = 2000  # in a t-SNE, whose time grows faster than its points


class Layout(NamedTuple):
    """Test data in the plane.

    Attributes:
        panels: points [n, 2], by title.
        limit: of the axes; None fits the points.
        split: the data.
    """

    panels: Mapping[str, Tensor]
    limit: float | None
    split: Split


def layout(run: Trained) -> Layout:
    """Lay the test set's latents out in the plane: as they are, or by t-SNE where they have other than 2 dimensions."""
    test = run.dataset.test
    if run.recipe.latent_dim > 2:
        test = test[:MOST_POINTS]
    z = run.recipe.encode(run, test)
    if run.recipe.latent_dim == 2:
        return Layout(
            {f"mean of q({run.recipe.latent_site} | x) for each test datum": z}, float(z.abs().max() * 1.05), test
        )
    return Layout({f"t-SNE of the {z.shape[1]}-D latents of {len(test)} test data": plots.tsne(z)}, None, test)


def latent_map(run: Trained) -> dict[str, Any]:
    """Draw the test set's latents in the plane, coloured by label."""
    panels, limit, split = layout(run)
    return {"latent-map": plots.latent_map(panels, split.labels, limit, names=run.dataset.classes)}


def latent_map_by_cluster(run: Trained) -> dict[str, Any]:
    """Draw the test set's latents in the plane, coloured by label, and by inferred cluster."""
    panels, limit, split = layout(run)
    return {
        "latent-map": plots.latent_map(panels, split.labels, limit, names=run.dataset.classes),
        "latent-map-by-cluster": plots.latent_map(panels, run.recipe.infer(run, split), limit, "cluster"),
    }


def latent_map_by_attribute(run: Trained) -> dict[str, Any]:
    """Draw the test set's latents in the plane, coloured by each attribute; by label where there is one alone."""
    attributes = run.dataset.attributes
    if len(attributes) == 1:
        return latent_map(run)
    panels, limit, split = layout(run)
    maps = {}
    for attribute, values in zip(attributes, split.attributes.T, strict=True):  # type: ignore[union-attr]
        known = {title: points[values >= 0] for title, points in panels.items()}
        drawn = plots.latent_map(known, values[values >= 0], limit, attribute.name, attribute.values)
        maps[f"latent-map-by-{attribute.name}"] = drawn
    return maps


def pixels_and_latents(run: Trained) -> dict[str, Any]:
    """Draw t-SNE maps of the raw pixels and of the latents side by side."""
    test = run.dataset.test[:MOST_POINTS]
    panels = {
        "t-SNE of raw pixels": plots.tsne(to_float(test.x, run.recipe.pixels)),
        f"t-SNE of {run.recipe.latent_dim}-D latents": plots.tsne(run.recipe.encode(run, test)),
    }
    return {"pixels-and-latents": plots.latent_map(panels, test.labels, names=run.dataset.classes)}


def decoded_plane(run: Trained) -> dict[str, Any]:
    """Draw the decoded images over the plane where the test set's latents lie, if they have two dimensions."""
    if run.recipe.latent_dim != 2 or run.dataset.is_table:
        return {}
    z = run.recipe.encode(run, run.dataset.test)
    return _decoded(run, z.quantile(0.01, dim=0), z.quantile(0.99, dim=0))


def decoded_unit_plane(run: Trained) -> dict[str, Any]:
    """Draw the decoded images over the plane from -3 to 3, where the prior lies, if latents have two dimensions."""
    if run.recipe.latent_dim != 2 or run.dataset.is_table:
        return {}
    corner = next(run.model.parameters()).new_full((2,), 3.0)
    return _decoded(run, -corner, corner)


def _decoded(run: Trained, lower: Tensor, upper: Tensor) -> dict[str, Any]:
    images = metrics.decode(run.model, plots.latent_grid(lower, upper, 20).to(lower), site=run.recipe.latent_site)
    extent = (float(lower[0]), float(upper[0]), float(lower[1]), float(upper[1]))
    title = f"mean image at each latent ({run.recipe.pixels} pixels)"
    return {"decoded-plane": plots.image_grid(images.clamp(0, 1), 20, title, extent)}
