"""The units of figures, with all that decides what they compare with."""

from typing import TYPE_CHECKING

from pyro_models.metrics.clusters import SCORES

if TYPE_CHECKING:
    from pyro_models.runs.folder import Run


def units(run: "Run", name: str) -> str:
    """Return the unit of a figure by its name."""
    if name == "mse":
        return "squared standard deviation per column" if run.dataset.is_table else "squared intensity per pixel"
    if name in ("vat", "consistency", "entropy", "marginal_kl", "cross_entropy"):
        return "nats"
    if name == "accuracy" and run.recipe.labels:
        return "share of data whose kind is their label"
    if name in ("kl_given_x", "kl_given_y"):
        return "nats"
    if name == "classifier_accuracy" or name.startswith("correctness"):
        return "share of the attributes" + (" given" if name != "classifier_accuracy" else " of test images")
    if name.startswith("coverage"):
        return "1 - Jensen-Shannon divergence, in bits, of the attributes not given"
    unit, of = run.recipe.unit(run.dataset), run.recipe.bound_of
    if run.attributes and name in ("elbo", "reconstruction"):
        unit += ", attributes included"
    named = {"elbo_exact": f"{unit}, sum over y", "labelled_elbo": f"{unit}, y observed"}
    return SCORES.get(name) or named.get(name, unit if of == "the story" else f"{unit}, bound of {of}")
