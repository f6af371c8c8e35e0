"""The objectives of a story with attributes, against the stories that are left when something is hidden."""

import math
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro_models.guides.jmvae import JMVAEGuide, signs
from pyro_models.guides.vae import VAEGuide
from torch.distributions import kl_divergence

from pyro_models import nn
from pyro_models.distributions import attribute, bernoulli
from pyro_models.jmvae import JMVAE
from pyro_models.objectives import (
    MaskMissing,
    all_of,
    jmvae,
    log_weights,
    masked,
    mean_field,
    mvae,
    some_of,
    telbo,
    trace,
)
from pyro_models.vae import VAE
from tests.conftest import IMAGE
from tests.linear_mixture import gradient

SIZES = {"y1": 1, "y2": 3}


def pair(latent=2, product=False):
    decoder = nn.decoder(nn.mlp(latent, 8, 16), IMAGE)
    heads = {site: nn.mlp(latent, 5, size) for site, size in SIZES.items()}
    body = nn.encoder(nn.mlp(16, 8), IMAGE)
    encoder = nn.Conditional(body, torch.nn.Linear(4, 8), torch.nn.Sequential(torch.nn.Tanh(), nn.mlp(8, 2 * latent)))
    if product:
        encoder = torch.nn.Sequential(body, torch.nn.Tanh(), nn.mlp(8, 2 * latent))
    experts = {site: nn.mlp(size, 6, 2 * latent) for site, size in SIZES.items()}
    return JMVAE(decoder, bernoulli, heads, latent), JMVAEGuide(encoder, experts, SIZES, product=product)


@pytest.fixture
def batch(x):
    return {
        "x": x,
        "y1": torch.tensor([[0.0], [1], [1], [0], [1], [0], [0]]),
        "y2": torch.eye(3)[[0, 2, 1, 1, 0, 2, 2]],
    }


def seeded(objective, *arguments, **batch):
    torch.manual_seed(5)
    return objective(*arguments, **batch)


def slopes(loss, model, guide):
    """The gradients by the parameters of the story, and of the guide."""
    whole = gradient(loss, model, guide)
    return whole.split([sum(p.numel() for p in half.parameters()) for half in (model, guide)])


def test_the_story_factorises_as_its_docstring_says(batch):
    model, _ = pair()
    nodes = poutine.trace(model).get_trace(**batch)
    z = nodes.nodes["z"]["value"]
    by_hand = dist.Normal(0.0, 1.0).log_prob(z).sum()
    by_hand = by_hand + dist.Bernoulli(logits=model.decoder(z)).log_prob(batch["x"]).sum()
    by_hand = by_hand + dist.Bernoulli(logits=model.heads["y1"](z)).log_prob(batch["y1"]).sum()
    by_hand = by_hand + (batch["y2"] * model.heads["y2"](z).log_softmax(-1)).sum()
    torch.testing.assert_close(nodes.log_prob_sum(), by_hand)


def test_attributes_that_are_not_given_are_drawn_as_often_as_the_story_says():
    model, _ = pair()
    told = poutine.trace(model).get_trace(batch=20_000)
    for site, size in SIZES.items():
        value, fn = told.nodes[site]["value"], attribute(model.heads[site](told.nodes["z"]["value"]))
        assert value.shape == (20_000, size)
        torch.testing.assert_close(value.mean(0), fn.mean.mean(0), rtol=0, atol=0.02)


def test_the_guide_says_what_its_docstring_says(batch):
    _, guide = pair()
    x, y1, y2 = batch.values()
    both = torch.cat([2 * y1 - 1, 2 * y2 - 1], -1)
    for given, seen in (({"y1": y1, "y2": y2}, both), ({}, 0 * both), ({"y1": y1}, both * torch.tensor([1, 0, 0, 0]))):
        loc, log_scale = guide.encoder(x, seen).chunk(2, -1)
        q = guide.posterior(x, **given)
        torch.testing.assert_close(q.mean, loc)
        torch.testing.assert_close(q.stddev, log_scale.exp())


@pytest.mark.parametrize("given", [("y1",), ("y2",), ("y1", "y2"), ("y2", "y1")])
def test_given_attributes_alone_the_guide_is_the_product_of_the_prior_and_their_experts(batch, given):
    _, guide = pair()
    precision, weighted = torch.ones(7, 2), torch.zeros(7, 2)
    for site in given:
        loc, log_scale = guide.experts[site](2 * batch[site] - 1).chunk(2, -1)
        log_scale = 3 * (log_scale / 3).tanh()
        precision = precision + (-2 * log_scale).exp()
        weighted = weighted + loc * (-2 * log_scale).exp()
    q = guide.posterior(**{site: batch[site] for site in given})
    torch.testing.assert_close(q.mean, weighted / precision)
    torch.testing.assert_close(q.stddev, precision.rsqrt())


def test_a_guide_that_is_a_product_multiplies_the_expert_of_the_image_too(batch):
    _, guide = pair(product=True)
    loc, log_scale = guide.encoder(batch["x"]).chunk(2, -1)
    log_scale = 3 * (log_scale / 3).tanh()
    image = (-2 * log_scale).exp()
    for given in ({}, {"y1": batch["y1"]}):
        others = guide.posterior(**given) if given else dist.Normal(torch.zeros(7, 2), 1.0)
        both, precision = guide.posterior(batch["x"], **given), others.variance.reciprocal()
        torch.testing.assert_close(both.variance.reciprocal(), precision + image)
        torch.testing.assert_close(both.mean, (precision * others.mean + image * loc) / (precision + image))


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize("image", [False, True])
def test_an_attribute_that_is_missing_for_a_datum_is_as_if_it_were_left_out(batch, product, image):
    _, guide = pair(product=product)
    x = {"x": batch["x"]} if image else {}
    some = {"y1": batch["y1"].clone(), "y2": batch["y2"]}
    some["y1"][2:4] = torch.nan
    q, whole = guide.posterior(**x, **some), guide.posterior(**x, y1=batch["y1"], y2=batch["y2"])
    without = guide.posterior(**x, y2=batch["y2"])
    missing = torch.tensor([0, 0, 1, 1, 0, 0, 0], dtype=torch.bool)[:, None]
    torch.testing.assert_close(q.mean, torch.where(missing, without.mean, whole.mean))
    torch.testing.assert_close(q.stddev, torch.where(missing, without.stddev, whole.stddev))
    assert gradient(q.mean.sum() + q.stddev.sum(), guide).isfinite().all()


def test_nothing_given_is_refused():
    with pytest.raises(ValueError, match="neither `x` nor an attribute is given"):
        pair()[1].posterior()


def test_signs():
    assert signs(torch.tensor([0.0, 1.0, math.nan])).tolist() == [-1.0, 1.0, 0.0]


@pytest.mark.parametrize("bound", [trace, mean_field])
def test_each_part_of_telbo_is_the_elbo_of_the_story_without_the_other_modality(batch, bound):
    model, guide = pair()
    terms = seeded(telbo(bound), model, guide, **batch)
    torch.manual_seed(5)
    joint = bound(model, guide, **batch)
    images = VAE(model.decoder, bernoulli, 2)
    of_image = VAEGuide(lambda x: guide.encoder(x, x.new_zeros(len(x), 4)))
    alone = bound(images, of_image, x=batch["x"])
    for head in model.heads.values():
        attribute(head(torch.zeros(7, 2))).sample()  # as they are where they are hidden
    q = guide.posterior(y1=batch["y1"], y2=batch["y2"])
    z = q.rsample()
    reconstruction = attribute(model.heads["y1"](z)).log_prob(batch["y1"]) + attribute(model.heads["y2"](z)).log_prob(
        batch["y2"]
    )
    prior = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    kl = (
        torch.distributions.kl_divergence(q, prior.expand([7]))
        if bound is mean_field
        else q.log_prob(z) - prior.log_prob(z)
    )
    elbo_y = (reconstruction - kl).mean()
    torch.testing.assert_close(terms["elbo"], joint["elbo"])
    torch.testing.assert_close(terms["elbo_x"], alone["elbo"])
    torch.testing.assert_close(terms["elbo_y"], elbo_y.detach())
    torch.testing.assert_close(terms["loss"], joint["loss"] + alone["loss"] - elbo_y)


def test_hiding_an_image_leaves_its_decoder_untouched_by_gradients(batch):
    model, guide = pair()
    without = {"y1": batch["y1"], "y2": batch["y2"]}
    mean_field(poutine.block(model, hide=["x"]), guide, **without)["loss"].backward()
    assert all(parameter.grad is None for parameter in model.decoder.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.heads.parameters())


def test_bounds_that_are_still_train_the_guide_as_before_and_the_story_not_at_all(batch):
    model, guide = pair()
    free = seeded(telbo(mean_field), model, guide, **batch)["loss"]
    still = seeded(telbo(mean_field, frozen=("elbo_x", "elbo_y")), model, guide, **batch)["loss"]
    joint = seeded(mean_field, model, guide, **batch)["loss"]
    torch.testing.assert_close(still, free)
    of_still, of_free, of_joint = (slopes(loss, model, guide) for loss in (still, free, joint))
    torch.testing.assert_close(of_still[1], of_free[1])
    torch.testing.assert_close(of_still[0], of_joint[0])
    assert not torch.allclose(of_free[0], of_joint[0])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_weights_of_telbo_multiply_its_parts(batch):
    model, guide = pair()
    one, x, y = (
        seeded(telbo(trace, weight_x=a, weight_y=b), model, guide, **batch) for a, b in ((1, 1), (3, 1), (1, 4))
    )
    torch.testing.assert_close(x["loss"] - one["loss"], -2 * one["elbo_x"])
    torch.testing.assert_close(y["loss"] - one["loss"], -3 * one["elbo_y"])


def test_the_terms_of_jmvae_vanish_where_every_posterior_is_the_joint_one(batch):
    model, guide = pair()
    terms = jmvae(mean_field, lambda **given: guide.posterior(**batch))(model, guide, **batch)
    assert terms["kl_given_x"].abs() < 1e-12
    assert terms["kl_given_y"].abs() < 1e-12
    torch.testing.assert_close(terms["loss"], -terms["elbo"])


def test_the_terms_of_jmvae_are_the_divergences(batch):
    model, guide = pair()
    terms = jmvae(mean_field, guide.posterior, weight=3.0)(model, guide, **batch)
    q = guide.posterior(**batch)
    z = q.sample(torch.Size([40_000]))
    for name, given in (("kl_given_x", ("x",)), ("kl_given_y", ("y1", "y2"))):
        p = guide.posterior(**{site: batch[site] for site in given})
        torch.testing.assert_close((q.log_prob(z) - p.log_prob(z)).mean(), terms[name], rtol=0.03, atol=0.01)
    torch.testing.assert_close(terms["loss"], -terms["elbo"] + 3 * (terms["kl_given_x"] + terms["kl_given_y"]))


def test_the_divergences_of_jmvae_leave_the_story_alone(batch):
    model, guide = pair()
    with_them = seeded(jmvae(mean_field, guide.posterior), model, guide, **batch)["loss"]
    without = seeded(mean_field, model, guide, **batch)["loss"]
    (theirs, of_guide), (alone, of_guide_alone) = (slopes(loss, model, guide) for loss in (with_them, without))
    torch.testing.assert_close(theirs, alone)
    assert not torch.allclose(of_guide, of_guide_alone)


def test_the_subsampled_bounds_of_mvae_are_a_sum(batch):
    model, guide = pair(product=True)
    terms = mvae(mean_field, choose=all_of)(model, guide, **batch)
    parts = [name for name in terms if name.startswith("elbo")]
    assert parts == ["elbo", "elbo_x", "elbo_y1", "elbo_y2", "elbo_y", "elbo_some"]
    torch.testing.assert_close(terms["loss"], -sum(terms[name] for name in parts))


def first(y):
    return {"y1": y["y1"]}


@pytest.mark.parametrize(
    ("objective", "name", "with_x"), [(telbo, "elbo_y", False), (mvae, "elbo_y", False), (mvae, "elbo_some", True)]
)
def test_a_bound_of_chosen_attributes_is_that_of_the_story_of_these(batch, objective, name, with_x):
    model, guide = pair(product=objective is mvae)
    few = first(batch) | ({"x": batch["x"]} if with_x else {})
    by_hand = mean_field(poutine.block(model, hide=[s for s in batch if s not in few]), guide, particles=4000, **few)
    means = [
        objective(partial(mean_field, particles=4000), choose=c)(model, guide, **batch)[name] for c in (first, all_of)
    ]
    torch.testing.assert_close(means[0], by_hand["elbo"], rtol=0, atol=0.06)
    assert abs(means[1] - by_hand["elbo"]) > 0.3


def test_the_divergence_of_chosen_attributes_is_from_the_product_of_their_experts(batch):
    model, guide = pair()
    terms = jmvae(mean_field, guide.posterior, choose=first)(model, guide, **batch)
    by_hand = kl_divergence(guide.posterior(**batch), guide.posterior(y1=batch["y1"])).mean()
    torch.testing.assert_close(terms["kl_given_y"], by_hand.detach())


def test_attributes_that_are_left_out_count_in_no_bound_nor_does_it_take_masked(batch):
    model, guide = pair(product=True)
    terms, again = (seeded(mvae(bound), model, guide, **batch) for bound in (mean_field, masked(mean_field)))
    torch.testing.assert_close(terms, again)


@pytest.mark.parametrize("objective", ["jmvae", "telbo"])
def test_an_image_is_looked_at_once_with_one_dropout_whatever_is_given(batch, objective):
    """Where no attribute is known q(z | x, y) is q(z | x), though training hides other pixels in each pass."""
    model, guide = pair()
    looks = []
    guide.encoder.body.insert(0, torch.nn.Dropout(0.5))
    guide.encoder.body.register_forward_hook(lambda *_: looks.append(1))
    blank = batch | {site: torch.full_like(batch[site], torch.nan) for site in SIZES}
    terms = (jmvae(mean_field, guide.posterior) if objective == "jmvae" else telbo(mean_field))(model, guide, **blank)
    assert len(looks) == 1
    if objective == "jmvae":
        torch.testing.assert_close(terms["kl_given_x"], torch.zeros(()))
    guide.posterior(batch["x"])
    guide.posterior(batch["x"])
    assert len(looks) == 3


@pytest.mark.parametrize("wrap", [partial, lambda model: lambda **given: model(**given), lambda model: model.tell])
def test_a_story_that_is_left_as_it_is_must_be_a_module(batch, wrap):
    model, guide = pair()
    model.tell = partial(model)
    with pytest.raises(TypeError, match=r"must be an nn\.Module, not"):
        telbo(mean_field, frozen=("elbo_x",))(wrap(model), guide, **batch)


def test_none_is_nothing_given(batch):
    model, guide = pair()
    q = guide.posterior(batch["x"], y1=None, y2=batch["y2"])
    torch.testing.assert_close(q.mean, guide.posterior(batch["x"], y2=batch["y2"]).mean)
    assert model(None, y1=None, y2=batch["y2"]).shape == batch["x"].shape
    assert len(model(y1=None, batch=3)) == 3


def test_missing_attributes_do_not_count(batch):
    """The bound of data with and without y1 is the mean of theirs."""
    model, guide = pair()
    some = batch | {"y1": batch["y1"].clone()}
    some["y1"][:3] = torch.nan
    torch.manual_seed(1)
    terms = masked(mean_field)(model, guide, **some)
    z = seeded_codes(guide, some)
    log_p = dist.Bernoulli(logits=model.decoder(z)).log_prob(batch["x"]).sum((1, 2, 3))
    log_p = log_p + attribute(model.heads["y2"](z)).log_prob(batch["y2"])
    known = attribute(model.heads["y1"](z)).log_prob(batch["y1"])
    log_p = log_p + torch.cat([torch.zeros(3), known[3:]])
    torch.testing.assert_close(terms["reconstruction"], log_p.mean().detach())
    torch.testing.assert_close(terms["reconstruction_y1"], known[3:].sum().detach() / 7)
    assert all(g.isfinite().all() for g in torch.autograd.grad(terms["loss"], list(model.parameters())))


def seeded_codes(guide, batch):
    torch.manual_seed(1)
    return guide.posterior(**batch).rsample()


def test_no_mask_where_nothing_is_missing(batch):
    model, guide = pair()
    torch.testing.assert_close(seeded(masked(trace), model, guide, **batch), seeded(trace, model, guide, **batch))
    with MaskMissing():
        assert poutine.trace(model).get_trace(**batch).nodes["x"]["mask"] is None


def test_the_bound_and_the_weights_against_the_evidence_by_quadrature(batch):
    """In one dimension log p(x, y) and log p(x) are integrals over z."""
    model, guide = pair(latent=1)
    z = torch.linspace(-9, 9, 4001)[:, None, None].expand(-1, 7, -1)
    log_joint = dist.Normal(0.0, 1.0).log_prob(z)[..., 0]
    log_joint = log_joint + dist.Bernoulli(logits=model.decoder(z)).log_prob(batch["x"]).sum((-1, -2, -3))
    log_all = log_joint + sum(attribute(model.heads[site](z)).log_prob(batch[site]) for site in SIZES)
    log_p_x, log_p_xy = (log_p.logsumexp(0) + math.log(18 / 4000) for log_p in (log_joint, log_all))
    elbo = mean_field(model, guide, particles=4000, **batch)["elbo"]
    q = guide.posterior(**batch)
    gap = (q.log_prob(z).exp() * (q.log_prob(z) - (log_all - log_p_xy))).sum(0) * 18 / 4000
    torch.testing.assert_close(elbo, (log_p_xy - gap).mean().detach(), rtol=0, atol=0.02)
    weights = log_weights(model, guide, particles=20_000, **batch).logsumexp(0) - math.log(20_000)
    torch.testing.assert_close(weights, log_p_xy, rtol=0, atol=0.05)
    y = {site: batch[site] for site in SIZES}
    story = poutine.block(model, hide=list(y))
    weights = log_weights(story, lambda x: guide(x=x, **y), particles=20_000, x=batch["x"]).logsumexp(0)
    torch.testing.assert_close(weights - math.log(20_000), log_p_x, rtol=0, atol=0.05)


def test_some_attributes_are_chosen_every_number_of_them_as_often():
    y = {f"y{i}": torch.ones(30_000, 2) for i in range(1, 5)}
    chosen = some_of(y)
    kept = torch.stack([~value.isnan().any(-1) for value in chosen.values()], -1)
    assert all((value.isnan().all(-1) == value.isnan().any(-1)).all() for value in chosen.values())
    counts = kept.sum(-1)
    for number in range(1, 5):
        assert (counts == number).double().mean() == pytest.approx(0.25, abs=0.02)
        torch.testing.assert_close(
            kept[counts == number].double().mean(0), torch.full((4,), number / 4), rtol=0, atol=0.03
        )
    assert not (counts == 0).any()


def test_of_attributes_some_of_which_are_missing_one_at_least_stays():
    known = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 0, 0]], dtype=torch.bool).repeat(10_000, 1)
    y = {f"y{i}": torch.zeros(30_000, 1).masked_fill(~known[:, [i]], torch.nan) for i in range(3)}
    kept = torch.cat([~value.isnan() for value in some_of(y).values()], -1)
    assert not (kept & ~known).any()
    two, one, none = kept.unflatten(0, (-1, 3)).unbind(1)
    torch.testing.assert_close(two.double().mean(0), torch.tensor([0.75, 0.0, 0.75]), rtol=0, atol=0.02)
    assert two.any(1).all()
    assert one[:, 2].all()
    assert not none.any()
