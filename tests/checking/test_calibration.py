"""Ranks are uniform at the exact posterior, and not at one that is too narrow, shifted or blind to categories."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal

from pyro_models.base.errors import UserError
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
    p = torch.tensor([one.p for seed in range(20) for one in ranks_of_seed(seed)])
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


@pytest.mark.parametrize(("power", "calibrated"), [(1.0, True), (0.01, True), (8.0, False)])
def test_categories_are_ranked_with_ties_in_a_random_order(power, calibrated):
    """The prior in place of the posterior (power 0.01) passes: ranks see no dependence on x."""
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


def shared(numbers, n=None):
    """A scalar latent that all data share; the data are under a name of their own, and copied."""
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(numbers)) as rows:
        pyro.sample("y", dist.Normal(m, 1.0), obs=numbers[rows])


class Exact:
    """The posterior of `shared`, its scale times a factor."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def __call__(self, numbers, n=None):
        n = len(numbers)
        pyro.sample("m", dist.Normal(numbers.sum() / (n + 1), self.factor * (n + 1) ** -0.5))


def exact_draws(numbers, draws=60):
    n = len(numbers)
    return {"m": numbers.sum() / (n + 1) + torch.randn(draws) * (n + 1) ** -0.5}


def test_a_latent_that_all_data_share_is_ranked_over_simulated_data_sets():
    y = torch.randn(10)
    (exact,) = calibrate(shared, Exact(), {"numbers": y, "n": 10}, draws=19, simulations=100)
    assert (exact.latent, len(exact.values)) == ("m", 100)
    assert exact.p > 0.001
    (narrow,) = calibrate(shared, Exact(0.4), {"numbers": y}, draws=19, simulations=100)
    assert narrow.p < 1e-6
    low, high = narrow.band
    assert ((narrow.ecdf_difference < low) | (narrow.ecdf_difference > high)).any()


def test_draws_of_an_mcmc_are_calibrated_by_refitting_to_each_simulated_data_set():
    (exact,) = calibrate(shared, None, torch.randn(10), draws=19, simulations=200, refit=exact_draws)
    assert exact.p > 0.001
    with pytest.raises(UserError, match="`refit` returns 60 draws, fewer than `draws=99`"):
        calibrate(shared, None, torch.randn(10), refit=exact_draws)


def test_what_refit_learns_stays_out_of_the_parameter_store_and_the_noise():
    pyro.param("kept", torch.tensor(2.0))
    fitted = []

    def refit(numbers):
        pyro.set_rng_seed(0)  # as training scripts do: the simulations must differ all the same
        assert torch.is_grad_enabled()
        pyro.get_param_store().setdefault("loc", numbers.mean())
        fitted.append(pyro.param("loc").item())
        return lambda numbers: pyro.sample("m", dist.Normal(pyro.param("loc"), 0.3))

    calibrate(shared, None, torch.randn(10), draws=19, simulations=5, refit=refit)
    assert len(set(fitted)) == 5
    assert list(pyro.get_param_store()) == ["kept"]


DATA = torch.randn(600, 50)
"""Reached by a global name: no argument of the programs below."""


def of_global_data():
    m = pyro.sample("m", dist.Normal(torch.zeros(50), 1.0).to_event(1))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(m, 1.0).to_event(1), obs=DATA[:6])


def of_a_subsample():
    m = pyro.sample("m", dist.Normal(torch.zeros(50), 1.0).to_event(1))
    with pyro.plate("data", 600, subsample_size=6) as rows:
        pyro.sample("y", dist.Normal(m, 1.0).to_event(1), obs=DATA[rows])


def pooled(ranks):
    return Ranks("all", torch.cat([each.values for each in ranks]), ranks[0].draws)


@pytest.mark.parametrize("model", [of_global_data, of_a_subsample])
def test_a_guide_that_does_not_read_the_data_is_fitted_to_each_simulated_data_set(model):
    guide = AutoNormal(model)
    guide()
    before = copy.deepcopy(guide.state_dict())
    ranks = calibrate(model, guide, (), draws=19, simulations=4, steps=80, learning_rate=0.1)
    assert [each.latent for each in ranks] == [f"m[{k}]" for k in range(50)]
    assert pooled(ranks).p > 0.001
    assert all(torch.equal(before[name], value) for name, value in guide.state_dict().items())


def local(x=DATA[:, 0]):
    with pyro.plate("data", 600):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize(("narrow", "right"), [(1.0, True), (0.6, False)])
def test_a_fitted_guide_too_narrow_for_the_posterior_is_caught(narrow, right):
    pyro.param("loc", torch.zeros(600))

    def guide(x=None):
        loc, scale = pyro.param("loc"), pyro.param("scale", torch.ones(()), constraint=dist.constraints.positive)
        with pyro.plate("data", 600):
            pyro.sample("z", dist.Normal(loc, narrow * scale if right else narrow * 0.5**0.5))

    (ranks,) = calibrate(local, guide, (), draws=19, steps=100)
    assert len(ranks.values) == 600
    assert (ranks.p > 0.001) == right
    assert torch.equal(pyro.param("loc"), torch.zeros(600))


def test_a_fit_that_has_not_reached_the_top_warns():
    def far():
        m = pyro.sample("m", dist.Normal(0.0, 1e3))
        pyro.sample("y", dist.Normal(m, 1.0), obs=DATA[0, 0])

    with pytest.warns(UserWarning, match=r"still rises, by .* nats over the last quarter of `steps=40`"):
        calibrate(far, AutoDelta(far), (), draws=19, steps=40, simulations=1)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(UserError, match="the guide draws 'm' alike whatever the data are, and has no parameters"):
        calibrate(of_global_data, lambda: pyro.sample("m", dist.Normal(torch.zeros(50), 1.0).to_event(1)), ())
    with pytest.raises(UserError, match="give a guide, or `refit`"):
        calibrate(shared, None, torch.randn(10))

    def residual():
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("residual", dist.Normal(0.0, 1.0), obs=DATA[0, 0] - m)

    with pytest.raises(UserError, match="the observed value of 'residual' depends on what is drawn"):
        calibrate(residual, AutoNormal(residual), ())


def test_a_latent_may_depend_on_what_is_observed():
    """As in a model of labelled data: there they stand in an argument, and the simulated ones take their place."""

    def model(labels, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(0.5), obs=labels)
            z = pyro.sample("z", dist.Normal(4 * y, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(labels, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((4 * labels + x) / 2, 0.5**0.5))

    (ranks,) = calibrate(model, guide, (torch.zeros(500), torch.zeros(500)), draws=19)
    assert ranks.p > 0.001


def observed(y, **options):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y, **options)


def guide_of_sum(numbers):
    pyro.sample("m", dist.Normal(numbers.double().sum() / 7, 7**-0.5))


def in_turn(numbers):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    for i in range(6):
        pyro.sample(f"y_{i}", dist.Normal(m, 1.0), obs=numbers[i])


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (lambda numbers: observed(numbers.reshape(6)), torch.randn(2, 3)),
        (lambda numbers: observed(numbers.T.reshape(6)), torch.randn(2, 3)),
        (lambda numbers: observed(numbers.flip(0)), torch.randn(6)),
        (lambda numbers: observed(numbers.double()), torch.randn(6).float()),
        (in_turn, torch.randn(6)),
    ],
    ids=["view", "transposed copy", "reversed copy", "cast", "item by item"],
)
def test_simulated_data_take_the_place_of_the_observed_values(model, data):
    """If one entry were wrong, the sum would be too, and the ranks not uniform."""
    (exact,) = calibrate(model, guide_of_sum, data, draws=19, simulations=100)
    assert exact.p > 0.001


def test_what_cannot_be_simulated_is_refused():
    def autoregressive(numbers):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 5):
            pyro.sample("y", dist.Normal(m * numbers[:-1], 1.0), obs=numbers[1:])

    for model, reason in (
        (autoregressive, "'y' depends on the arguments that the observed values are in"),
        (lambda numbers: observed(2 * numbers), "the observed value of 'y' is no part of an argument"),
        (lambda numbers: observed(torch.zeros(6)), "the guide draws 'm' alike whatever the data are"),
    ):
        with pytest.raises(UserError, match=reason):
            calibrate(model, guide_of_sum, torch.randn(6))

    def heavy(numbers):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m, 1e3).expand([6]).to_event(1).mask(True), obs=(numbers * 1).exp())

    with pytest.raises(UserError, match="'y' is no part of an argument"):
        calibrate(heavy, guide_of_sum, torch.randn(6))


def test_dimensions_are_named_by_their_place_in_an_event_or_in_inner_plates():
    def model(x):
        with pyro.plate("columns", 2, dim=-2), pyro.plate("data", len(x), dim=-1):
            pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("columns", 2, dim=-2), pyro.plate("data", len(x), dim=-1):
            pyro.sample("w", dist.Normal(1e-9 * x, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            loc = (x / 4)[:, None].expand(-1, 3)
            pyro.sample("z", dist.MultivariateNormal(loc, torch.eye(3) - 0.25))

    ranks = calibrate(model, guide, torch.randn(400), draws=19)
    assert [one.latent for one in ranks] == ["w[0]", "w[1]", "z[0]", "z[1]", "z[2]"]
    assert all(len(one.values) == 400 and one.p > 0.001 for one in ranks)


def test_data_that_read_the_latents_of_others_are_one_simulation():
    def walk(x):
        plate = pyro.plate("time", len(x))
        with plate:
            step = pyro.sample("step", dist.Normal(0.0, 1.0))
        with plate:
            pyro.sample("x", dist.Normal(step.cumsum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("time", len(x)):
            pyro.sample("step", dist.Normal(0.5 * x, 1.0))

    ranks = calibrate(walk, guide, torch.zeros(4), draws=19, simulations=3)
    assert [(each.latent, sum(each.counts)) for each in ranks] == [(f"step[{k}]", 3) for k in range(4)]
