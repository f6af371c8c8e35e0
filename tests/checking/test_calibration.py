"""Ranks are uniform at the exact posterior, and not at one that is too narrow, shifted or blind to categories."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_models.checking.calibration import Ranks, calibrate
from tests.linear_gaussian import ExactGuide, LinearGaussian
from tests.linear_mixture import KINDS, joint_of_kinds, linear_mixture


class Narrow(ExactGuide):
    """The exact posterior with its scale changed."""

    factor = 0.7

    def posterior(self, x):
        q = super().posterior(x)
        return dist.MultivariateNormal(q.loc, scale_tril=self.factor * q.scale_tril)


def ranks_of(guide_class, n=1000, **options):
    model = LinearGaussian().requires_grad_(False)
    return calibrate(model, guide_class(model, **options).requires_grad_(False), {"x": torch.zeros(n, 3)})


def test_the_exact_posterior_is_calibrated():
    ranks_of_site = ranks_of(ExactGuide)
    assert [one.latent for one in ranks_of_site] == ["z[0]", "z[1]"]
    for one in ranks_of_site:
        assert one.p > 0.001
        assert sum(one.counts) == 1000
        assert one.values.min() >= 0
        assert one.values.max() <= 99


def test_p_of_the_exact_posterior_is_uniform():
    p = torch.tensor([one.p for seed in range(40) for one in ranks_of_seed(seed)])
    assert 0.35 < p.mean() < 0.65
    assert (p < 0.05).double().mean() < 0.16


def ranks_of_seed(seed):
    model = LinearGaussian().requires_grad_(False)
    return calibrate(model, ExactGuide(model), {"x": torch.zeros(300, 3)}, draws=19, seed=seed)


def test_too_narrow_a_posterior_piles_ranks_up_at_both_ends_and_a_shifted_one_at_one():
    for one in ranks_of(Narrow):
        assert one.p < 1e-6
        assert one.counts[0] > 75 < one.counts[-1]  # 50 are expected, and 64 exceeded once in 50
    for one in ranks_of(ExactGuide, shift=0.5):
        assert one.p < 1e-6
        assert one.counts[0] > 2 * one.counts[-1]


class ExactCategories(torch.nn.Module):
    """The exact q(y | x) of the linear mixture, tempered; z is not looked at."""

    def __init__(self, model, power=1.0):
        super().__init__()
        self.model, self.power = [model], power

    def forward(self, x):
        (model,) = self.model
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=self.power * joint_of_kinds(model, x)))
            pyro.sample("z", model.prior(y))


@pytest.mark.parametrize(("power", "calibrated"), [(1.0, True), (1e-9, True), (8.0, False)])
def test_categories_are_ranked_with_ties_in_a_random_order(power, calibrated):
    """The prior in place of the posterior (power 1e-9) passes: ranks see no dependence on x. Too sure a guide does not."""
    model, _ = linear_mixture()
    with torch.no_grad():
        model.component.weight *= 3
    ranks = calibrate(model, ExactCategories(model, power), {"x": torch.zeros(2000, 4)})
    ranks_of_site = [one for one in ranks if "y" in one.latent]
    assert len(ranks_of_site) == KINDS
    assert (min(one.p for one in ranks_of_site) > 0.001) == calibrated


def test_noise_and_modes_are_restored(vae):
    model, guide = vae
    state = torch.get_rng_state()
    first = calibrate(model, guide, {"x": torch.zeros(50, 1, 4, 4)}, draws=19)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    again = calibrate(model, guide, {"x": torch.zeros(50, 1, 4, 4)}, draws=19)
    assert all(torch.equal(one.values, two.values) for one, two in zip(first, again, strict=True))


def test_ranks_that_cannot_be_are_refused(vae):
    model, guide = vae
    with pytest.raises(ValueError, match="98 draws make 99 ranks"):
        calibrate(model, guide, {"x": torch.zeros(5, 1, 4, 4)}, draws=98)


def test_counts_of_equal_parts():
    one = Ranks("z[0]", torch.arange(100).repeat(2), 99)
    assert one.counts == [10] * 20
    assert one.p == 1.0
    assert abs(one.ecdf_difference).max() < 1e-12


def test_the_whole_difference_lies_in_its_band_for_95_per_cent_of_uniform_ranks():
    outside = 0
    for _ in range(400):
        one = Ranks("z", torch.randint(0, 100, (150,)), 99)
        low, high = one.band
        outside += bool(((one.ecdf_difference < low) | (one.ecdf_difference > high)).any())
    assert 6 <= outside <= 36  # 0.05 of 400 is 20
