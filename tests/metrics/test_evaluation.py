"""Terms averaged over batches, latents, reconstructions and generated data, against the networks themselves."""

import logging
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro_models.guides.classifier import ClassifierGuide
from torch import nn

from pyro_models.classifier import Classifier
from pyro_models.data import to_float
from pyro_models.distributions import grey_bernoulli
from pyro_models.metrics.evaluation import decode, encode, eval_mode, evaluate, generate, in_batches, reconstruct
from pyro_models.objectives import iwae, mean_field, modules_of, trace
from tests.conftest import IMAGE
from tests.linear_mixture import KINDS, linear_mixture


@pytest.fixture
def images():
    """Grey images as bytes, of which `dynamic` pixels are drawn."""
    return torch.randint(0, 256, (23, *IMAGE), dtype=torch.uint8)


def batches_of(images, size=1000, pixels="grey"):
    """A generator, as recipes hand one over: pixels are drawn when a batch is asked for."""
    return ({"x": to_float(part, pixels)} for part in images.split(size))


def squared_error(model, guide):
    return lambda batch: {"mse": (reconstruct(model, guide, batch) - batch["x"]).square().mean()}


def test_a_reconstruction_is_the_decoder_at_the_mean_of_the_posterior(vae, x):
    model, guide = vae
    expected = model.decoder(guide.encoder(x).chunk(2, -1)[0]).sigmoid()
    torch.testing.assert_close(reconstruct(model, guide, {"x": x}), expected)


def test_a_reconstruction_is_at_the_likeliest_category():
    model, guide = linear_mixture()
    x = model(batch=9).detach()
    y = F.one_hot(guide.classify(x).logits.argmax(-1), KINDS).to(x)
    expected = model.decoder(guide.encoder(x, y).chunk(2, -1)[0])
    torch.testing.assert_close(reconstruct(model, guide, {"x": x}), expected)


def test_any_observed_site_can_be_reconstructed(x):
    def model(x, t):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("t", dist.Normal(3 * z, 1.0), obs=t)

    def guide(x, t):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x + t, 1.0))

    x, t = torch.randn(2, 5)
    torch.testing.assert_close(reconstruct(model, guide, {"x": x, "t": t}, site="t"), 3 * (x + t))


def test_decoding_is_the_mean_image_at_a_latent(vae):
    model, _ = vae
    z = torch.randn(5, 2)
    torch.testing.assert_close(decode(model, z), model.decoder(z).sigmoid())


def test_what_is_given_is_kept_and_the_rest_is_generated():
    model, _ = linear_mixture()
    y = torch.eye(KINDS).repeat(2000, 1)
    values = generate(model, ["y", "z", "x"], len(y), y=y)
    assert torch.equal(values["y"], y)
    torch.testing.assert_close(values["x"], model.decoder(values["z"]))  # the mean of x given z
    prior = model.prior(torch.eye(KINDS))
    for k in range(KINDS):
        torch.testing.assert_close(values["z"][k::KINDS].mean(0), prior.mean[k], rtol=0, atol=0.2)


@pytest.mark.parametrize("size", [1, 4, 23, 100])
def test_latents_are_the_means_of_the_posterior_whatever_the_batches(vae, images, size):
    _, guide = vae
    expected = guide.posterior(to_float(images, "grey")).mean
    torch.testing.assert_close(encode(guide, batches_of(images, size)), expected)
    assert guide.training


def test_latents_of_any_site_are_encoded(x):
    def guide(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x, 1.0))
            pyro.sample("z1", dist.Normal(2 * z2 + 1, 1.0))

    x = torch.randn(6)
    torch.testing.assert_close(encode(guide, [{"x": x[:4]}, {"x": x[4:]}], site="z1"), 2 * x + 1)


def test_latents_of_dynamic_pixels_repeat_themselves_and_leave_the_noise_alone(vae, images):
    _, guide = vae
    state = torch.random.get_rng_state()
    first = encode(guide, batches_of(images, 5, "dynamic"))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(encode(guide, batches_of(images, 5, "dynamic")), first)
    assert not torch.allclose(first, encode(guide, batches_of(images, 5)))
    with eval_mode():
        expected = guide.posterior(to_float(images[5:10], "dynamic")).mean
    torch.testing.assert_close(first[5:10], expected)


def test_data_are_cut_into_consecutive_parts():
    data = {"x": torch.arange(7), "y": torch.arange(7.0)}
    for size, lengths in ((3, [3, 3, 1]), (7, [7]), (9, [7]), (None, [7])):
        parts = list(in_batches(data, size))
        assert [len(part["x"]) for part in parts] == lengths
        for name in data:
            assert torch.equal(torch.cat([part[name] for part in parts]), data[name])


@pytest.mark.parametrize("size", [1, 10, 23, 100])
def test_averages_count_each_image_once_whatever_the_batches(images, size):
    def objective(model, guide, x):
        return {"loss": torch.tensor(0.0), "elbo": x.mean()}

    def half(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.full_like(x, 0.5), 1.0).to_event(3), obs=x)

    def nothing(x):
        pass

    terms = evaluate(half, nothing, objective, batches_of(images, size), scores=squared_error(half, nothing))
    pixels = images.double() / 255
    assert terms == {
        "elbo": pytest.approx(pixels.mean().item()),
        "mse": pytest.approx((pixels - 0.5).square().mean().item()),
    }


@pytest.mark.parametrize("size", [1, 10, 23, 100])
def test_a_story_of_y_is_evaluated_at_the_labels(images, size):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    x, labels = to_float(images, "grey"), torch.arange(23) % 3
    data = {"x": x, "y": F.one_hot(labels, 3).to(x)}
    terms = evaluate(Classifier(network), ClassifierGuide(network), trace, in_batches(data, size))
    assert terms == {"elbo": pytest.approx(-F.cross_entropy(network(x), labels).item())}


def test_evaluation_repeats_itself_and_leaves_no_trace(vae, images):
    model, guide = vae
    model.likelihood = grey_bernoulli
    error = squared_error(model, guide)

    def terms(**options):
        return evaluate(model, guide, iwae, batches_of(images, pixels="dynamic"), scores=error, **options)

    state = torch.random.get_rng_state()
    first = terms()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert guide.training
    assert terms() == first
    assert terms(seed=1) != first
    assert set(first) == {"elbo", "reconstruction", "kl", "iwae", "mse"}
    with eval_mode(model, guide):
        assert not model.training
        assert not torch.is_grad_enabled()
    assert evaluate(model, guide, mean_field, batches_of(images))["kl"] > 0


def test_each_part_is_put_back_in_its_own_mode():
    frozen, trained = torch.nn.BatchNorm1d(2).eval(), torch.nn.BatchNorm1d(2)
    whole = torch.nn.Sequential(frozen, trained)
    with eval_mode(whole, lambda: None):
        assert not trained.training
    assert (whole.training, frozen.training, trained.training) == (True, False, True)


class Pair:
    """A plain object, as in many Pyro programs, whose network is no registered module."""

    def __init__(self):
        self.network = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)).float()

    def model(self, x):
        pyro.sample("x", dist.Normal(self.network(x), 1.0).to_event(2), obs=x)


NETWORK = nn.BatchNorm1d(2, dtype=torch.float32)


def global_model(x):
    pyro.sample("x", dist.Normal(NETWORK(x), 1.0).to_event(2), obs=x)


def closure_model():
    network = nn.BatchNorm1d(2).float()

    def model(x):
        return [pyro.sample("x", dist.Normal(each(x), 1.0).to_event(2), obs=x) for each in [network]]

    return model


LOG = logging.getLogger(__name__)


def logging_model(x):
    LOG.debug("rows: %s", len(x))
    global_model(x)


def test_the_modules_of_a_program_are_not_those_that_a_handler_of_its_logger_holds(monkeypatch):
    handler = logging.NullHandler()
    handler.network = nn.Linear(1, 1)
    monkeypatch.setattr(LOG, "handlers", [handler])
    assert modules_of(logging_model) == [NETWORK]


@pytest.mark.parametrize(
    "program",
    [Pair().model, global_model, closure_model(), partial(Pair().model), poutine.scale(Pair().model, 2.0)],
    ids=["method", "global", "closure", "partial", "handler"],
)
def test_evaluation_leaves_alone_the_statistics_and_modes_of_every_network_that_a_program_reaches(program):
    (network,) = modules_of(program)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with eval_mode(program):
        assert not any(part.training for part in network.modules())
        poutine.trace(program).get_trace(torch.randn(5, 2, dtype=torch.float32))
    assert all(part.training for part in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
