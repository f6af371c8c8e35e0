"""Training of pairs and data of every form, against Pyro's SVI and closed forms."""

import itertools
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.optim import Adam
from torch import nn
from torch.distributions import constraints
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pyro_models.data import Split
from pyro_models.objectives import mean_field, trace
from pyro_models.training.loop import fit
from pyro_models.training.schedules import cosine


@pytest.fixture(autouse=True)
def no_parameters():
    pyro.clear_param_store()


def model(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def guide(x):
    loc = pyro.param("q_loc", torch.tensor(0.0))
    scale = pyro.param("q_scale", torch.tensor(1.0), constraint=constraints.positive)
    pyro.sample("loc", dist.Normal(loc, scale))


def test_parameters_of_the_store_are_trained_as_svi_trains_them():
    x = 2 + torch.randn(20)
    epochs = list(fit(model, guide, (x,), "mean-field", epochs=80, learning_rate=0.1))
    posterior = dist.Normal(x.sum() / (20 + 1 / 9), (20 + 1 / 9) ** -0.5)
    assert pyro.param("q_loc").item() == pytest.approx(posterior.loc.item(), abs=0.2)
    assert pyro.param("q_scale").item() == pytest.approx(posterior.scale.item(), abs=0.05)
    ours = trace(model, guide, x, particles=4000)["elbo"]
    pyro.clear_param_store()
    svi = SVI(model, guide, Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(80):
        svi.step(x)
    torch.testing.assert_close(ours, trace(model, guide, x, particles=4000)["elbo"], rtol=0, atol=0.3)
    assert epochs[-1].terms["elbo"] > epochs[0].terms["elbo"]


def test_a_step_is_that_of_svi():
    x = torch.randn(5)
    torch.manual_seed(0)
    list(fit(model, guide, {"x": x}, trace, partial(torch.optim.SGD, lr=0.01), epochs=1, seed=3))
    ours = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
    pyro.clear_param_store()
    from pyro_models.base.seeds import derived_seed

    torch.manual_seed(derived_seed(3, "noise", 0, 0))
    guide(x)
    torch.manual_seed(derived_seed(3, "noise", 0, 0))
    SVI(model, guide, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO()).step(x)
    for name, value in pyro.get_param_store().items():
        torch.testing.assert_close(ours[name], value.detach())


class LocalPair:
    """A plain object with a network in it, whose latents are one for each datum."""

    def __init__(self):
        torch.manual_seed(0)
        self.network, self.unused = nn.Linear(1, 2), nn.Linear(3, 3)

    def model(self, x, scale=1.0):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    def guide(self, x, scale=1.0):
        loc, log_scale = self.network(x[:, None]).unbind(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()))


DATA = torch.linspace(-2, 2, 12, dtype=torch.float64)
FORMS = {
    "dictionary": ({"x": DATA, "scale": 1.0}, 4),
    "tuple": ((DATA,), 4),
    "tensor": (DATA, 4),
    "array": ({"x": DATA.numpy()}, 4),
    "dataset": (TensorDataset(DATA), 4),
    "loader": (DataLoader(TensorDataset(DATA), batch_size=4, shuffle=True), None),
    "list": ([{"x": part} for part in DATA.split(4)], None),
    "split": (Split(DATA), 4),
}


@pytest.mark.parametrize("form", FORMS)
def test_data_of_every_form_train_networks_that_a_method_reaches(form):
    data, size = FORMS[form]
    pair = LocalPair()
    before = pair.unused.weight.detach().clone()
    for epoch in fit(pair.model, pair.guide, data, "mean-field", batch_size=size, epochs=40, learning_rate=cosine(0.2)):
        assert set(epoch.terms) == {"loss", "elbo", "reconstruction", "kl"}
    torch.testing.assert_close(pair.network.weight[0], torch.tensor([0.5]), atol=0.15, rtol=0)
    evidence = dist.Normal(0.0, 2**0.5).log_prob(DATA).mean()
    elbo = mean_field(pair.model, pair.guide, DATA, particles=3000)["elbo"]
    torch.testing.assert_close(elbo, evidence, atol=0.05, rtol=0)
    assert torch.equal(pair.unused.weight, before)


def test_the_guide_that_pyro_makes_is_trained():
    x = 2 + torch.randn(20)
    automatic = AutoNormal(model)
    list(fit(model, automatic, x, epochs=60, learning_rate=0.2))
    assert automatic.median()["loc"].item() == pytest.approx((x.sum() / (20 + 1 / 9)).item(), abs=0.15)
    assert not list(pyro.get_param_store().keys())


def test_a_model_without_latents_and_one_whose_sites_are_summed_out_are_trained():
    x = torch.cat([torch.randn(40) - 3, torch.randn(40) + 3])

    def mixture(x):
        locs = pyro.param("locs", torch.tensor([-0.5, 0.5]))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Normal(locs[k], 1.0), obs=x)

    list(fit(config_enumerate(mixture), lambda x: None, x, "enum", epochs=60, learning_rate=0.2))
    assert pyro.param("locs").tolist() == pytest.approx([-3, 3], abs=0.4)


def test_a_subsampled_plate_is_trained_on_other_rows_in_each_step():
    data = 2 + torch.randn(200)

    def subsampled(data):
        loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(data), subsample_size=20) as index:
            pyro.sample("x", dist.Normal(loc, 1.0), obs=data[index])

    point = AutoDelta(subsampled)
    list(fit(subsampled, point, data, epochs=60, learning_rate=0.2))
    assert point.median()["loc"].item() == pytest.approx(data.mean().item(), abs=0.15)


class Endless(IterableDataset):
    def __iter__(self):
        return itertools.repeat(DATA)


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (DATA, {"batch_size": 4}, "site 'loc' is shared by all data"),
        (DATA, {"batch_size": 40}, "the longest argument has 12 rows"),
        (iter([DATA]), {}, "can be read once"),
        (DataLoader(Endless()), {}, "has no length"),
        ([DATA], {"batch_size": 4}, "has batches of its own"),
        (DATA, {"objective": "tracer"}, "did you mean 'trace'"),
    ],
)
def test_what_cannot_be_trained_rightly_is_refused(data, options, words):
    with pytest.raises(ValueError, match=words):
        fit(model, guide, data, epochs=1, **options)


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="nothing to train"):
        fit(model, lambda x: pyro.sample("loc", dist.Normal(0.0, 1.0)), DATA, epochs=1)


def test_rows_that_are_read_together_are_not_cut_into_batches():
    """The objective of batches that are each standardised by themselves is another one than that of the whole."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=(x - x.mean()) / x.std())

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))

    x = torch.arange(10.0)
    with pytest.raises(ValueError, match="`batch_size`: site 'x' depends in a row on the others"):
        fit(model, guide, x, epochs=1, batch_size=5)
    assert len([*fit(model, guide, x, epochs=2)]) == 2
