import math

import pyro.distributions as dist
import pytest
import torch

from pyro_models.distributions import (
    ContinuousBernoulli,
    GreyBernoulli,
    NormalLikelihood,
    bernoulli,
    continuous_bernoulli,
    grey_bernoulli,
)

LOGITS = torch.tensor([-30.0, -2.0, 0.0, 0.3, 4.0], dtype=torch.float64)


def test_a_grey_bernoulli_is_the_mean_log_density_over_binarisations():
    grey = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    plain = dist.Bernoulli(logits=LOGITS)
    expected = grey * plain.log_prob(torch.ones(5)) + (1 - grey) * plain.log_prob(torch.zeros(5))
    torch.testing.assert_close(GreyBernoulli(logits=LOGITS).log_prob(grey), expected)


def test_on_binary_pixels_the_grey_bernoulli_is_the_bernoulli():
    x = torch.bernoulli(torch.full((2, 1, 3, 3), 0.5))
    logits = torch.randn(2, 1, 3, 3)
    torch.testing.assert_close(grey_bernoulli(logits).log_prob(x), bernoulli(logits).log_prob(x))
    assert grey_bernoulli(logits).log_prob(x).shape == (2,)


def test_the_bernoulli_refuses_grey_pixels_and_the_grey_one_refuses_what_is_no_pixel():
    logits = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="support"):
        bernoulli(logits).log_prob(torch.full((1, 1, 2, 2), 0.5))
    with pytest.raises(ValueError, match="support"):
        grey_bernoulli(logits).log_prob(torch.full((1, 1, 2, 2), 1.5))


@pytest.mark.parametrize("logit", [0.0, 0.02, -0.06, 3.0, -30.0, 30.0, -80.0])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_the_continuous_bernoulli_is_its_closed_form_however_sure_it_is(logit, kind):
    x, logits = torch.tensor([0.0, 0.3, 1.0], dtype=kind), torch.tensor(logit, dtype=kind, requires_grad=True)
    constant = math.log(logit / math.tanh(logit / 2)) if logit else math.log(2)
    expected = torch.tensor(
        [v * logit - math.log1p(math.exp(-abs(logit))) - max(logit, 0) + constant for v in x.tolist()]
    )
    value = ContinuousBernoulli(logits=logits).log_prob(x)
    torch.testing.assert_close(value, expected.to(kind), rtol=1e-5 if kind == torch.float32 else 1e-10, atol=1e-5)
    value.sum().backward()
    assert logits.grad.isfinite()


@pytest.mark.parametrize("logit", LOGITS[1:].tolist())
def test_the_continuous_bernoulli_is_a_density_and_the_grey_one_is_not(logit):
    grid = torch.linspace(0, 1, 2001).reshape(-1, 1, 1, 1)
    logits = torch.full_like(grid, logit)
    density = continuous_bernoulli(logits).log_prob(grid).exp()
    torch.testing.assert_close(torch.trapezoid(density, dx=1 / 2000), torch.tensor(1.0), rtol=1e-5, atol=0)
    mean = torch.trapezoid(density * grid.flatten(), dx=1 / 2000)
    torch.testing.assert_close(continuous_bernoulli(logits[:1]).mean.squeeze(), mean, rtol=1e-4, atol=0)
    assert torch.trapezoid(grey_bernoulli(logits).log_prob(grid).exp(), dx=1 / 2000) < 0.99


def test_a_learned_scale_settles_at_the_root_mean_square_error():
    likelihood = NormalLikelihood()
    error = torch.randn(50, 1, 2, 2) * 0.37
    optimizer = torch.optim.LBFGS(likelihood.parameters(), line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = -likelihood(torch.zeros_like(error)).log_prob(error).mean()
        value.backward()
        return value

    for _ in range(3):
        optimizer.step(loss)
    torch.testing.assert_close(likelihood.log_scale.exp(), error.square().mean().sqrt())


def test_a_given_scale_is_no_parameter():
    likelihood = NormalLikelihood(0.5)
    assert not list(likelihood.parameters())
    x = torch.randn(3, 1, 2, 2)
    expected = dist.Normal(0.0, 0.5).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(likelihood(torch.zeros_like(x)).log_prob(x), expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_the_mean_of_the_continuous_bernoulli_is_that_of_its_density(dtype, tolerance):
    """By the trapezoid rule in float64; torch's own is wrong by 0.005 in float32 near a logit of 0."""
    logits = torch.cat([torch.linspace(-20, 20, 41), torch.linspace(-0.3, 0.3, 61)]).double()
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    for logit in logits:
        density = (logit * x).exp()
        expected = torch.trapezoid(x * density, x) / torch.trapezoid(density, x)
        mean = ContinuousBernoulli(logits=logit.to(dtype)).mean
        torch.testing.assert_close(mean.double(), expected, rtol=0, atol=tolerance + 1e-8)
