import pytest
import torch

from guides.classifier import ClassifierGuide
from pyro_models.classifier import Classifier
from pyro_models.data import Split, to_float
from pyro_models.metrics.evaluation import codes, decode, evaluate, evaluation, reconstruct
from pyro_models.objectives import iwae, mean_field, trace
from tests.conftest import IMAGE


@pytest.fixture
def split():
    return Split(torch.randint(0, 256, (23, *IMAGE), dtype=torch.uint8))


def test_a_reconstruction_is_the_decoder_at_the_mean_of_the_posterior(vae, x):
    model, guide = vae
    expected = model.decoder(guide.encoder(x).chunk(2, -1)[0]).sigmoid()
    torch.testing.assert_close(reconstruct(model, guide, x), expected)


def test_decoding_is_the_mean_image_at_a_code(vae):
    model, _ = vae
    z = torch.randn(5, 2)
    torch.testing.assert_close(decode(model, z), model.decoder(z).sigmoid())


def test_codes_are_the_means_of_the_posterior(vae, split):
    _, guide = vae
    expected = guide.posterior(to_float(split.x, "grey")).mean
    torch.testing.assert_close(codes(guide, split, "grey", batch_size=4), expected)


@pytest.mark.parametrize("batch_size", [1, 10, 23, 100])
def test_averages_count_each_image_once_whatever_the_batches(split, batch_size):
    def objective(model, guide, x):
        return {"loss": torch.tensor(0.0), "elbo": x.mean()}

    class Half(torch.nn.Module):
        def forward(self, x):
            import pyro
            import pyro.distributions as dist

            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(torch.full_like(x, 0.5), 1.0).to_event(3), obs=x)

    class Nothing(torch.nn.Module):
        def forward(self, x):
            pass

    figures = evaluate(Half(), Nothing(), objective, split, "grey", batch_size=batch_size)
    pixels = split.x / 255.0
    assert figures == {
        "elbo": pytest.approx(pixels.double().mean().item()),
        "mse": pytest.approx((pixels.double() - 0.5).square().mean().item()),
    }


@pytest.mark.parametrize("batch_size", [1, 10, 23, 100])
def test_a_story_of_y_is_evaluated_at_the_labels_and_has_no_reconstruction(batch_size):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    split = Split(torch.randint(0, 256, (23, *IMAGE), dtype=torch.uint8), torch.arange(23) % 3)
    expected = torch.nn.functional.cross_entropy(network(to_float(split.x, "grey")), split.labels).item()
    pair = Classifier(network), ClassifierGuide(network)
    figures = evaluate(*pair, trace, split, "grey", kinds=3, batch_size=batch_size)
    assert figures == {"elbo": pytest.approx(-expected)}


def test_evaluation_repeats_itself_and_leaves_no_trace(vae, split):
    model, guide = vae
    from pyro_models.distributions import grey_bernoulli

    model.likelihood = grey_bernoulli
    state = torch.random.get_rng_state()
    first = evaluate(model, guide, iwae, split, "dynamic")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert guide.training
    assert evaluate(model, guide, iwae, split, "dynamic") == first
    assert evaluate(model, guide, iwae, split, "dynamic", seed=1) != first
    assert set(first) == {"elbo", "reconstruction", "kl", "iwae", "mse"}
    with evaluation(model, guide):
        assert not model.training
        assert not torch.is_grad_enabled()
    assert evaluate(model, guide, mean_field, split, "grey")["kl"] > 0


def test_evaluation_puts_each_part_back_in_its_own_mode():
    frozen, trained = torch.nn.BatchNorm1d(2).eval(), torch.nn.BatchNorm1d(2)
    whole = torch.nn.Sequential(frozen, trained)
    with evaluation(whole):
        assert not trained.training
    assert (whole.training, frozen.training, trained.training) == (True, False, True)
