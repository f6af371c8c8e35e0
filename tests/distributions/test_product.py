import copy
import itertools
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.distributions import kl_divergence

from pyro_models.distributions import ProductOfNormals

GRID = torch.linspace(-30, 30, 6001, dtype=torch.float64).unsqueeze(-1)
MASKS = [mask for mask in itertools.product([True, False], repeat=3) if any(mask)]


def experts(*shape):
    """Locs and scales of Normals that overlap."""
    return torch.randn(shape), 0.3 + 2 * torch.rand(shape)


def integral(values):
    return torch.trapezoid(values, GRID, dim=0)


@pytest.mark.parametrize("many", [1, 2, 3, 6])
def test_the_density_is_the_product_of_the_experts_over_its_integral(many):
    loc, scale = experts(4, many)
    product = dist.Normal(loc, scale).log_prob(GRID.unsqueeze(-1)).sum(-1).exp()
    ours = ProductOfNormals(loc, scale, dim=-1)
    assert (ours.batch_shape, ours.event_shape) == ((4,), ())
    torch.testing.assert_close(ours.log_normaliser.exp(), integral(product))
    torch.testing.assert_close(ours.log_prob(GRID).exp(), product / integral(product))


def test_one_expert_and_the_prior_are_the_posterior_of_one_noisy_measurement():
    loc, scale = experts(5)
    shrinkage = 1 / (1 + scale.square())
    zeros = torch.zeros(5)
    ours = ProductOfNormals(torch.stack([zeros, loc]), torch.stack([zeros + 1, scale]), dim=-2)
    torch.testing.assert_close(ours.mean, shrinkage * loc)
    torch.testing.assert_close(ours.variance, shrinkage * scale.square())
    torch.testing.assert_close(ours.log_normaliser, dist.Normal(0, (1 + scale.square()).sqrt()).log_prob(loc))


def test_one_expert_alone_is_that_expert():
    loc, scale = experts(5, 1, 3)
    ours = ProductOfNormals(loc, scale, dim=-2)
    assert torch.equal(ours.loc, loc.squeeze(1))
    assert torch.equal(ours.scale, scale.squeeze(1))
    torch.testing.assert_close(ours.log_normaliser, torch.zeros(5, 3))


def test_the_order_of_the_experts_does_not_matter():
    loc, scale = experts(4, 2)
    ours = ProductOfNormals(loc, scale, dim=-2)
    for order in itertools.permutations(range(4)):
        other = ProductOfNormals(loc[list(order)], scale[list(order)], dim=-2)
        torch.testing.assert_close(other.loc, ours.loc)
        torch.testing.assert_close(other.scale, ours.scale)
        torch.testing.assert_close(other.log_normaliser, ours.log_normaliser)


def test_a_product_of_products_is_the_product_of_all():
    loc, scale = experts(5, 3)
    pairs = [ProductOfNormals(loc[i], scale[i], dim=-2) for i in (slice(0, 2), slice(2, 5))]
    ours = ProductOfNormals(torch.stack([p.loc for p in pairs]), torch.stack([p.scale for p in pairs]), dim=-2)
    expected = ProductOfNormals(loc, scale, dim=-2)
    torch.testing.assert_close(ours.loc, expected.loc)
    torch.testing.assert_close(ours.scale, expected.scale)
    constants = ours.log_normaliser + sum(p.log_normaliser for p in pairs)
    torch.testing.assert_close(constants, expected.log_normaliser)


def summary(product, value):
    """All that a product of Normals tells, in one number."""
    return (product.log_prob(value) + product.log_normaliser + product.loc * product.scale + product.entropy()).sum()


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-200])
def test_masking_an_expert_is_leaving_it_out_whatever_stands_in_its_place(rubbish):
    mask = torch.tensor(MASKS)
    loc, scale = (torch.where(mask.unsqueeze(-1), p, rubbish).requires_grad_() for p in experts(len(MASKS), 3, 2))
    value = torch.randn(2)
    ours = ProductOfNormals(loc, scale, mask, dim=-2)
    gradients = torch.autograd.grad(summary(ours, value), (loc, scale))
    for i, present in enumerate(mask):
        parts = [p[i, present].detach().requires_grad_() for p in (loc, scale)]
        expected = ProductOfNormals(*parts, dim=-2)
        torch.testing.assert_close(ours.loc[i], expected.loc)
        torch.testing.assert_close(ours.scale[i], expected.scale)
        torch.testing.assert_close(ours.log_normaliser[i], expected.log_normaliser)
        for ours_i, theirs in zip(gradients, torch.autograd.grad(summary(expected, value), parts), strict=True):
            torch.testing.assert_close(ours_i[i, present], theirs)
            assert (ours_i[i, ~present] == 0).all()


def test_an_expert_of_infinite_scale_is_a_masked_one():
    mask, value = torch.tensor(MASKS), torch.randn(())
    loc, scale = experts(len(MASKS), 3)
    masked = [p.clone().requires_grad_() for p in (loc, scale)]
    flat = [loc.clone().requires_grad_(), scale.masked_fill(~mask, math.inf).requires_grad_()]
    ours = summary(ProductOfNormals(*flat, dim=-1), value)
    expected = summary(ProductOfNormals(*masked, mask, dim=-1), value)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(torch.autograd.grad(ours, flat), torch.autograd.grad(expected, masked))


def test_a_mask_of_one_batch_serves_all_draws_and_event_dimensions():
    loc, scale = experts(5, 7, 3, 2, 4)
    mask = torch.tensor(MASKS)
    ours = ProductOfNormals(loc, scale, mask, dim=-3)
    assert ours.batch_shape == (5, 7, 2, 4)
    flat = ProductOfNormals(loc.flatten(-2), scale.flatten(-2), mask.expand(5, 7, 3), dim=-2)
    torch.testing.assert_close(ours.loc.flatten(-2), flat.loc)
    torch.testing.assert_close(ours.scale.flatten(-2), flat.scale)


@pytest.mark.parametrize("event_dim", [0, 1])
def test_the_divergences_are_those_of_numerical_integration(event_dim):
    ours, other = (ProductOfNormals(*experts(3, 2), dim=-2) for _ in range(2))
    normal = dist.Normal(*experts(2))
    for p, q in itertools.permutations([ours, other, normal], 2):
        log_p, log_q = p.log_prob(GRID), q.log_prob(GRID)
        expected = integral(log_p.exp() * (log_p - log_q))
        divergence = kl_divergence(p.to_event(event_dim), q.to_event(event_dim))
        torch.testing.assert_close(divergence, expected.sum() if event_dim else expected)
    torch.testing.assert_close(kl_divergence(ours, ours), torch.zeros(2))
    torch.testing.assert_close(ours.entropy(), -integral(ours.log_prob(GRID).exp() * ours.log_prob(GRID)))


def test_a_draw_is_the_mean_plus_noise_times_the_standard_deviation():
    ours = ProductOfNormals(*experts(3, 2), dim=-2)
    density = ours.log_prob(GRID).exp()
    mean = integral(density * GRID)
    deviation = integral(density * (GRID - mean).square()).sqrt()
    torch.manual_seed(1)
    draws = ours.rsample((5,))
    torch.manual_seed(1)
    torch.testing.assert_close(draws, mean + deviation * torch.randn(5, 2))


def test_the_gradients_are_those_of_finite_differences():
    loc, scale = (p.requires_grad_() for p in experts(len(MASKS), 3))

    def everything(loc, scale):
        ours = ProductOfNormals(loc, scale, torch.tensor(MASKS), dim=-1)
        torch.manual_seed(1)
        draw = ours.rsample()
        return draw, ours.loc, ours.scale, ours.log_normaliser, ours.log_prob(draw)

    assert torch.autograd.gradcheck(everything, (loc, scale))


def test_the_gradient_of_a_draw_with_respect_to_an_experts_loc_is_its_share_of_the_precision():
    loc, scale = experts(3)
    loc.requires_grad_()
    ProductOfNormals(loc, scale, dim=-1).rsample().backward()
    torch.testing.assert_close(loc.grad, scale**-2 / (scale**-2).sum())


def test_in_float32_scales_far_apart_give_what_they_give_in_float64():
    scale = torch.tensor(list(itertools.product([1e-15, 1e-4, 1.0, 1e4, 1e15], repeat=3)), dtype=torch.float32)
    loc = torch.tensor([-1.0, 2.0, 0.5]).expand_as(scale)

    def of(dtype):
        """Values, and gradients with respect to loc and to the logarithm of scale."""
        loc_, log_scale = loc.to(dtype).requires_grad_(), scale.to(dtype).log().requires_grad_()
        ours = ProductOfNormals(loc_, log_scale.exp(), dim=-1)
        by_loc, by_log_scale = torch.autograd.grad(ours.loc.sum(), (loc_, log_scale), retain_graph=True)
        (of_entropy,) = torch.autograd.grad(ours.entropy().sum(), log_scale)
        return ours.loc, ours.scale / scale.amin(-1), ours.entropy(), by_loc, by_log_scale, of_entropy

    for single, double in zip(of(torch.float32), of(torch.float64), strict=True):
        assert single.dtype == torch.float32
        assert single.isfinite().all()
        torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


def test_a_product_of_nothing_and_an_expert_that_is_no_normal_are_refused():
    loc, scale = experts(4, 2, 3)
    mask = torch.ones(4, 2, dtype=torch.bool)
    mask[3] = False
    with pytest.raises(ValueError, match="no experts"):
        ProductOfNormals(loc, scale, mask, dim=-2)
    mask[3, 0] = True
    ProductOfNormals(loc, scale, mask, dim=-2)
    for bad in (0.0, -1.0, math.nan):
        wrong = scale.clone()
        wrong[3, 0, 0] = bad
        with pytest.raises(ValueError, match="scale"):
            ProductOfNormals(loc, wrong, mask, dim=-2)
    with pytest.raises(ValueError, match="from the right"):
        ProductOfNormals(loc, scale, dim=1)


def test_without_validation_a_product_of_nothing_leaves_the_others_alone():
    loc, scale = (p.requires_grad_() for p in experts(2, 3))
    ours = ProductOfNormals(loc, scale, torch.tensor([[True] * 3, [False] * 3]), dim=-1, validate_args=False)
    assert ours.loc.isnan().tolist() == [False, True]
    torch.testing.assert_close(ours.loc[0], ProductOfNormals(loc[0], scale[0], dim=-1).loc)
    by_loc, by_scale = torch.autograd.grad(ours.loc.sum(), (loc, scale))
    assert by_loc.isfinite().all()
    assert by_scale.isfinite().all()


@pytest.mark.parametrize(
    "remade", [copy.deepcopy, lambda q: pickle.loads(pickle.dumps(q)), lambda q: q.expand((4, 7, 2))]
)
def test_a_copy_is_the_same_distribution(remade):
    ours = ProductOfNormals(*experts(7, 3, 2), torch.tensor(MASKS), dim=-2)
    other = remade(ours)
    assert type(other) is ProductOfNormals
    value = other.rsample((3,))
    assert value.shape == (3, *other.batch_shape)
    assert len(value.flatten().unique()) == value.numel()
    torch.testing.assert_close(other.log_prob(value), ours.log_prob(value))
    torch.testing.assert_close(other.log_normaliser, ours.log_normaliser.expand(other.batch_shape))


def test_as_the_exact_posterior_it_makes_the_elbo_and_its_gradient_those_of_the_evidence_at_every_draw():
    """z ~ Normal(0, I); y_i ~ Normal(z, scale_i), some of them missing: q(z | y) is the prior times the likelihoods."""
    mask = torch.tensor([*MASKS, (False, False, False)])
    y = torch.where(mask.unsqueeze(-1), torch.randn(len(mask), 3, 2), math.nan)
    scale = torch.tensor([0.3, 1.0, 2.5], requires_grad=True)

    def story():
        with pyro.plate("data", len(mask)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            for i in range(3):
                likelihood = dist.Normal(z, scale[i]).to_event(1).mask(mask[:, i])
                pyro.sample(f"y{i + 1}", likelihood, obs=y[:, i].nan_to_num())

    def guide():
        """The prior as an expert beside the others."""
        loc = torch.nn.functional.pad(y, (0, 0, 1, 0), value=0.0)
        scales = torch.nn.functional.pad(scale, (1, 0), value=1.0).unsqueeze(-1)
        q = ProductOfNormals(loc, scales, torch.nn.functional.pad(mask, (1, 0), value=True), dim=-2)
        with pyro.plate("data", len(mask)):
            pyro.sample("z", q.to_event(1))
        return q

    evidence = torch.zeros(())
    for y_n, present in zip(y, mask, strict=True):
        if present.any():
            covariance = 1 + torch.diag(scale[present].square())
            joint = dist.MultivariateNormal(torch.zeros(len(covariance)), covariance)
            evidence = evidence + joint.log_prob(y_n[present].T).sum()
    torch.testing.assert_close(guide().log_normaliser.sum(), evidence)
    (expected,) = torch.autograd.grad(evidence, scale)
    for _ in range(3):
        elbo = -Trace_ELBO().differentiable_loss(story, guide)
        torch.testing.assert_close(elbo, evidence)
        torch.testing.assert_close(torch.autograd.grad(elbo, scale)[0], expected)
