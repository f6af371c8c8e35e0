"""A right story passes, a wrong one fails: the rates are counted."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import binom

from guides.vae import VAEGuide
from pyro_models import nn
from pyro_models.base.errors import UserError
from pyro_models.checking.calibration import calibrate
from pyro_models.checking.predictive import Check, check, compare, measured
from pyro_models.checking.replicates import replicate
from pyro_models.checking.statistics import of_images, of_table
from pyro_models.distributions import bernoulli
from pyro_models.vae import VAE
from tests.linear_gaussian import ExactGuide, LinearGaussian
from tests.linear_mixture import linear_mixture

IMAGE = (1, 6, 6)


def of_prior(found, name):
    """The two-sided p of a statistic against prior replicates."""
    (one,) = [one for one in found if one.statistic == name]
    return one.against["prior"]["two_sided"]


def table_story():
    """Three kinds, well apart, and a guide that does not matter to prior replicates."""
    model, guide = linear_mixture()
    with torch.no_grad():
        model.component.weight[:2] = 4 * torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
        model.component.weight[2:], model.component.bias[:] = 0.0, torch.tensor([0.0, 0.0, -0.7, -0.7])
        model.decoder.weight[:] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]])
    return model, guide


def image_story():
    """Blobs of which some code says where, and the exact pixels are drawn."""
    model = VAE(nn.decoder(torch.nn.Linear(2, 36), IMAGE), bernoulli, 2)
    place = torch.linspace(-1, 1, 6)
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    with torch.no_grad():
        model.decoder[0].weight[:] = 3 * torch.stack([columns.flatten(), rows.flatten()], -1)
        model.decoder[0].bias[:] = -1.5
    return model, VAEGuide(nn.encoder(nn.mlp(36, 4), IMAGE))


def too_few_kinds(model):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.component.weight[:, 2] = broken.component.weight[:, 1]  # the third is the second again
    return broken


def wider_noise(model):
    broken = copy.deepcopy(model)
    broken.likelihood.log_scale += 0.4
    return broken


def paler(model):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.decoder[0].weight *= 0.6
    return broken


def data_of(model, n, shape):
    with torch.no_grad():
        return replicate(model, None, {"x": torch.zeros(n, *shape)}).drawn["x"]


def statistics_of(model, shape):
    train = data_of(model, 100, shape)
    return {"x": of_images(train) if len(shape) == 3 else of_table(train, "abcd")}


def p_values(truth, believed, shape, sets, n=40, replicates=39):
    """Two-sided p of each statistic, [sets] each, of data sets of `truth` checked by what is `believed`."""
    model, guide = believed
    statistics, found = statistics_of(truth, shape), []
    for number in range(sets):
        checks = check(model, guide, {"x": data_of(truth, n, shape)}, statistics, replicates=replicates, seed=number)
        found.append([[result["two_sided"] for result in one.against.values()] for one in checks])
    prior, posterior = torch.tensor(found).unbind(-1)
    return {one.statistic: prior[:, k] for k, one in enumerate(checks)}, posterior


def alarms_are_as_rare_as_said(p):
    """Each statistic's rate lies within what 5 % can give once in 10,000 times."""
    for name, values in p.items():
        assert (values <= 0.05).sum() <= binom.ppf(1 - 1e-4, len(values), 0.05), name
    every = torch.stack(list(p.values()))
    assert 0.5 * 0.05 < (every <= 0.05).double().mean() < 1.6 * 0.05


def test_a_right_story_of_a_table_fails_as_often_as_said():
    model, guide = table_story()
    alarms_are_as_rare_as_said(p_values(model, (model, guide), (4,), sets=14)[0])


@pytest.mark.parametrize(
    ("story", "break_it", "shape", "seen_by"),
    [
        (table_story, too_few_kinds, (4,), "b, mean"),
        (table_story, wider_noise, (4,), "distance to the nearest of 100 training rows, mean"),
        (image_story, paler, IMAGE, "stroke width, mean"),
    ],
)
def test_a_broken_copy_is_caught(story, break_it, shape, seen_by):
    model, guide = story()
    p, _ = p_values(model, (break_it(model), guide), shape, sets=6, n=100)
    assert (p[seen_by] <= 0.05).sum() >= 5


@pytest.mark.long
@pytest.mark.parametrize(
    ("story", "shape", "breaks"), [(table_story, (4,), [too_few_kinds, wider_noise]), (image_story, IMAGE, [paler])]
)
def test_false_alarms_and_power_over_many_data_sets(story, shape, breaks):
    """Prints what the README says of them."""
    model, guide = story()
    p, _ = p_values(model, (model, guide), shape, sets=200)
    alarms_are_as_rare_as_said(p)
    rates = {name: float((values <= 0.05).double().mean()) for name, values in p.items()}
    few, many = binom.interval(0.95, 200, 0.05)
    print(f"\n{story.__name__}: {sum(rates.values()) / len(rates):.3f} of the checks of 200 data sets fail,")
    print(f"of one statistic {min(rates.values())} to {max(rates.values())}; 95 % band {few / 200} to {many / 200}")
    for break_it in breaks:
        p, _ = p_values(model, (break_it(model), guide), shape, sets=100, n=100)
        power = {name: float((values <= 0.05).double().mean()) for name, values in p.items()}
        print(f"{break_it.__name__}: " + ", ".join(f"{name} {rate:.2f}" for name, rate in power.items() if rate > 0.2))
        assert max(power.values()) > 0.95


def test_posterior_replicates_at_the_exact_posterior_fail_less_often_than_said():
    model = LinearGaussian().requires_grad_(False)
    model.scale = 0.2
    guide = ExactGuide(model).requires_grad_(False)
    statistics, low = {"x": {"third": lambda x: x[:, 2].mean()}}, []
    for seed in range(25):
        found = check(model, guide, {"x": data_of(model, 30, (3,))}, statistics, replicates=39, seed=seed)
        low += [one.against["posterior"]["p"] for one in found]
    values = torch.tensor(low)
    assert (values - 0.5).abs().mean() < 0.15  # 0.25 where they are uniform
    assert ((values <= 0.025) | (values >= 0.975)).double().mean() <= 0.05


def test_a_p_value_counts_the_data_as_one_more_replicate():
    result = compare(3.0, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert (result["p"], result["two_sided"]) == (3 / 5, 1.0)
    assert result["error"] == pytest.approx((0.5 * 0.5 / 4) ** 0.5)  # a share of (1 + 2) / (2 + 4)
    assert compare(-9.0, torch.arange(39.0))["error"] == pytest.approx(compare(99.0, torch.arange(39.0))["error"])
    assert (result["mean"], result["sd"]) == (2.5, pytest.approx(1.2909944))
    assert compare(9.0, torch.arange(39.0))["two_sided"] == pytest.approx(22 / 40)
    assert compare(99.0, torch.arange(39.0))["two_sided"] == pytest.approx(2 / 40)
    assert compare(-9.0, torch.arange(39.0))["p"] == 1.0
    assert compare(0.0, torch.zeros(50))["two_sided"] == 1.0


def test_the_monte_carlo_error_is_the_spread_of_p_over_repetitions():
    found = [compare(0.7, torch.randn(100)) for _ in range(1000)]
    p = torch.tensor([one["p"] for one in found])
    assert p.std().item() == pytest.approx(sum(one["error"] for one in found) / 1000, rel=0.1)


def test_what_the_data_show_is_measured_on_them_and_user_functions_count(vae, x):
    model, guide = vae
    state, mode = torch.get_rng_state(), (model.training, guide.training)
    seen = []

    def corner(x):
        seen.append(x)
        return x[:, 0, 0, 0]

    def darkest(x):
        return x.mean((1, 2, 3)).max()

    found = check(model, guide, {"x": x}, {"x": {"corner": corner, "darkest": darkest}}, replicates=39)
    assert [one.statistic for one in found] == ["corner, mean", "corner, sd", "darkest"]
    assert found[0].observed == pytest.approx(x[:, 0, 0, 0].mean().item())
    assert found[1].observed == pytest.approx(x[:, 0, 0, 0].std().item())
    assert found[2].observed == pytest.approx(x.mean((1, 2, 3)).max().item())
    assert len(seen) == 2 * 39 + 1
    assert sum(torch.equal(one, x) for one in seen) == 1  # the data themselves, once
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.training, guide.training) == mode
    again = check(model, guide, {"x": x}, {"x": {"corner": corner, "darkest": darkest}}, replicates=39)
    assert [one.as_json() for one in again] == [one.as_json() for one in found]


def test_kinds_that_a_guide_infers_are_checked_against_the_storys():
    model, guide = table_story()
    with torch.no_grad():
        guide.classifier[-1].bias[:] = torch.tensor([0.0, 0.0, -50.0])  # one kind is never seen
    statistics = {"y": {"share": lambda y: y[:, 2]}}
    found = check(model, guide, {"x": data_of(model, 60, (4,))}, statistics, replicates=39)
    assert found[0].observed == 0.0
    assert set(found[0].replicated) == {"prior"}
    assert of_prior(found, "share, mean") == pytest.approx(2 / 40)


def test_wrong_statistics_are_named(vae, x):
    model, guide = vae
    for wrong in (lambda x: x, lambda x: x.new_full((), torch.nan), lambda x: x[:3, 0, 0, 0]):
        with pytest.raises(UserError, match="statistic 'wrong' gives"):
            measured({"x": {"wrong": wrong}}, {"x": x})
    with pytest.raises(ValueError, match=r"statistics of \['w'\], and the sites are \['x', 'z'\]"):
        check(model, guide, {"x": x}, {"w": {"ink": lambda w: w.mean()}})
    with pytest.raises(ValueError, match="fewer than 39"):
        check(model, guide, {"x": x}, {}, replicates=38)


def test_a_check_can_be_written_as_json():
    one = Check("x", "ink", 2.0, {"prior": torch.arange(40.0)})
    written = one.as_json()
    assert written["prior"]["p"] == 39 / 41
    assert set(written) == {"site", "statistic", "observed", "prior"}


def test_a_statistic_that_fails_is_named():
    with pytest.raises(UserError, match=r"'mine' of \[3, 2\] fails"):
        measured({"x": {"mine": torch.linalg.inv}}, {"x": torch.ones(3, 2)})


def test_what_a_function_learnt_by_pyro_param_is_what_is_checked():
    pyro.clear_param_store()
    pyro.param("loc", torch.tensor(0.0))
    pyro.get_param_store()["loc"] = torch.tensor(5.0)

    def model(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + pyro.param("loc", torch.tensor(0.0))) / 2, 0.5**0.5))

    x = 5.0 + 2**0.5 * torch.randn(200)
    (found, _) = check(model, guide, {"x": x}, {"x": {"mean": torch.clone}}, replicates=39)
    assert abs(found.against["prior"]["mean"] - 5.0) < 0.1
    assert calibrate(model, guide, {"x": x.repeat(5)})[0].p > 1e-3  # a scalar latent, and the exact posterior
    pyro.clear_param_store()
