"""Estimators compared along a training, where what can be reached is known."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_models.base.errors import UserError
from pyro_models.likelihood import compare_training, training_table
from pyro_models.likelihood import curves as module
from tests.linear_gaussian import ExactGuide, LinearGaussian


@pytest.fixture
def by_epochs(monkeypatch):
    """Count each epoch as a second, so that as many are run on any machine."""
    fit = module.fit

    def timed(*args, **kwargs):
        for epoch in fit(*args, **kwargs):
            yield module.Epoch(epoch.number, 1.0, epoch.terms)

    monkeypatch.setattr(module, "fit", timed)


def test_a_guide_moved_off_the_posterior_comes_back_and_the_pair_stays_as_it_is(by_epochs):
    """The ELBO of the exact posterior is log p(x), which importance sampling has from the start."""
    model = LinearGaussian()
    x = model(batch=40).detach()
    guide = ExactGuide(model, shift=0.3)
    model.requires_grad_(False)
    curves = compare_training(model, guide, x, x, ["mean-field", "dreg"], seconds=40, learning_rate=0.05, samples=50)
    for curve in curves.values():
        assert curve.seconds[0] == 0.0
        assert curve.elbo[0] < model.evidence(x).mean() - 0.1
        assert curve.elbo[-1] > curve.elbo[0]
        assert curve.log_p[-1] == pytest.approx(float(model.evidence(x).mean()), abs=0.02)
    assert curves["mean-field"].elbo[0] == curves["dreg"].elbo[0]
    assert torch.equal(guide.shift.detach(), torch.full((2,), 0.3))


def test_each_estimator_has_weights_and_parameters_of_its_own(by_epochs):
    """Trained in turns, each is where it is when it is trained alone."""

    def model(x):
        scale = pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, scale))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x, guide = torch.randn(30), AutoNormal(model)
    together, *alone = (
        compare_training(model, guide, x, x, names, seconds=8, samples=10)
        for names in (["trace", "iwae"], ["trace"], ["iwae"])
    )
    assert together == alone[0] | alone[1]
    assert len(together["trace"].elbo) > 3


def test_an_estimator_that_does_not_train_the_pair_says_why():
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(3 * k, 1.0), obs=x)

    def guide(x):
        logit = pyro.param("logit", torch.tensor(0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(logits=logit * x))

    x = torch.randn(10)
    curves = compare_training(model, guide, x, x, ["enum", "iwae"], seconds=0.01)
    assert "site 'k' is not reparameterised" in curves["iwae"].refused
    assert "site 'k' is not reparameterised" in training_table(curves)
    assert curves["enum"].refused is None
    with pytest.raises(UserError, match="'iwea' is no estimator: did you mean 'iwae'"):
        compare_training(model, guide, x, x, ["iwea"])
