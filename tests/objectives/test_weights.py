"""The weights that objectives return beside their terms are those that their losses have."""

from functools import partial

import pyro.distributions as dist
import pytest
import torch

from pyro_models.objectives import (
    ESTIMATORS,
    Terms,
    consistency,
    discriminative,
    entropy,
    jitter,
    jmvae,
    marginal_kl,
    masked,
    mean_field,
    mvae,
    regularised,
    relaxed,
    scaled,
    telbo,
    vat,
    with_labels,
)
from tests.least_squares import assert_weights_are_the_losss
from tests.linear_mixture import KINDS, linear_mixture
from tests.objectives.test_multimodal import SIZES, pair

BOUNDS = {
    name: scaled(partial(estimator, particles=3), {} if name in ("iwae", "renyi", "rws", "dreg") else {"z": 2.0})
    for name, estimator in ESTIMATORS.items()
}
EXPECTED = {name: {"elbo": -1.0} for name in BOUNDS} | {
    "iwae": {"iwae": -1.0},
    "renyi": {"renyi": -1.0},
    "rws": {"iwae": -1.0},
    "dreg": {"iwae": -1.0},
}
TERMS = {
    "vat": (3.0, partial(vat, radius=0.3)),
    "consistency": (0.5, partial(consistency, jitter=partial(jitter, amount=0.1))),
    "marginal_kl": (7.0, marginal_kl),
    "entropy": (0.25, entropy),
}


def repeated(objective, model, guide, batch, times=12):
    return [lambda: objective(model, guide, **batch()) for _ in range(times)]


def images():
    y = {site: torch.eye(size)[torch.randint(size, (7,))] for site, size in SIZES.items()}
    return {"x": torch.rand(7, 1, 4, 4).bernoulli()} | y


@pytest.fixture
def mixture():
    model, guide = linear_mixture()

    def batch():
        one_hot = dist.OneHotCategorical(torch.ones(4, KINDS)).sample()
        data = {"x": model(batch=6).detach(), "labelled_x": model(batch=4).detach()}
        return data | {"labelled_y": one_hot}

    return model, guide, batch


@pytest.mark.parametrize("name", BOUNDS)
def test_of_estimators(vae, name):
    def batch():
        return {"x": torch.rand(7, 1, 4, 4).bernoulli()}

    assert BOUNDS[name](*vae, **batch()).weights == EXPECTED[name]
    assert_weights_are_the_losss(repeated(BOUNDS[name], *vae, batch))


@pytest.mark.parametrize("name", ["mean-field", "enum", "iwae", "dreg"])
@pytest.mark.parametrize("terms", [True, False])
def test_of_terms_and_labels(mixture, name, terms):
    model, guide, batch = mixture
    bound = BOUNDS[name] if name == "enum" else relaxed(BOUNDS[name], 0.5)
    part = regularised(bound, TERMS if terms else {}, guide.classify)
    whole = with_labels(part, bound, guide.classify, weight=5.0 * terms, share=0.25)
    expected = EXPECTED[name] | {f"labelled_{key}": 0.25 * value for key, value in EXPECTED[name].items()}
    if terms:
        expected |= {"vat": 3.0, "consistency": 0.5, "marginal_kl": 7.0, "entropy": 0.25, "cross_entropy": 5.0}
    assert whole(model, guide, **batch()).weights == expected
    assert_weights_are_the_losss(repeated(whole, model, guide, batch))


@pytest.mark.parametrize("terms", [{}, TERMS])
def test_of_terms_without_a_bound(mixture, terms):
    model, guide, batch = mixture
    objective = regularised(discriminative(guide.classify), terms, guide.classify)
    assert_weights_are_the_losss(repeated(objective, model, guide, lambda: {"x": batch()["x"]}))


@pytest.mark.parametrize("bound", ["mean-field", "iwae"])
@pytest.mark.parametrize(
    "objective",
    [
        lambda bound, guide: masked(bound),
        lambda bound, guide: jmvae(bound, guide.posterior, weight=3.0),
        lambda bound, guide: jmvae(bound, guide.posterior, weight=0.0),
        lambda bound, guide: telbo(bound, weight_x=2.0, weight_y=0.5, frozen=("elbo", "elbo_x")),
        lambda bound, guide: telbo(bound, bound_y=scaled(mean_field, {"y1": 9.0}), weight_x=0.0),
        lambda bound, guide: mvae(bound),
    ],
    ids=["masked", "jmvae", "jmvae of weight 0", "telbo", "telbo of another bound", "mvae"],
)
def test_of_several_modalities(bound, objective):
    model, guide = pair()
    assert_weights_are_the_losss(repeated(objective(BOUNDS[bound], guide), model, guide, images, times=16))


def test_of_a_loss_that_says_nothing_of_them_nothing_is_known(mixture):
    model, guide, batch = mixture

    def squared(model, guide, **batch):
        terms = mean_field(model, guide, **batch)
        return {"loss": terms["elbo"].square(), "elbo": terms["elbo"]}

    whole = with_labels(relaxed(squared, 1.0), relaxed(mean_field, 1.0), guide.classify, weight=1.0)
    assert whole(model, guide, **batch()).weights is None
    whole = with_labels(relaxed(mean_field, 1.0), relaxed(squared, 1.0), guide.classify, weight=1.0)
    assert whole(model, guide, **batch()).weights is None


def test_adding_terms_keeps_those_of_the_sum_by_other_names():
    ours = Terms({"loss": torch.tensor(3.0), "a": torch.tensor(1.5), "b": torch.tensor(9.0)}, {"a": 2.0})
    theirs = Terms({"loss": torch.tensor(-4.0), "a": torch.tensor(2.0), "c": torch.tensor(7.0)}, {"a": -2.0})
    both = ours.plus(theirs, 0.5, prefix="their_")
    assert both == {"loss": torch.tensor(1.0), "a": ours["a"], "b": ours["b"], "their_a": theirs["a"]}
    assert both.weights == {"a": 2.0, "their_a": -1.0}
    assert ours.plus(theirs, 0.0, suffix="_2").weights == {"a": 2.0}
