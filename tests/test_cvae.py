"""The conditional VAE: its story and guide against the formula on paper, a linear one that is known, and its recipe."""

from types import SimpleNamespace

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from pyro_models.guides.cvae import CVAEGuide
from torch.nn import Linear, Module

from pyro_models import nn
from pyro_models.base.errors import UserError
from pyro_models.cvae import CVAE
from pyro_models.data import Dataset, Split
from pyro_models.distributions import NormalLikelihood, bernoulli, grey_bernoulli
from pyro_models.objectives import log_weights, mean_field
from pyro_models.recipes.cvae import CVAERecipe, completions
from tests.conftest import IMAGE


class OfBoth(Module):
    """A network of two inputs side by side, the second of which may have more dimensions on the left."""

    def __init__(self, body, event_dim=1):
        super().__init__()
        self.body, self.event_dim = body, event_dim

    def forward(self, first, second):
        first = first.flatten(-self.event_dim)
        return self.body(torch.cat([first.expand(*second.shape[:-1], -1), second], -1))


@pytest.fixture
def pair():
    """A CVAE of 4x4 images given one of three classes, with two latents, and its guide."""
    decoder = nn.decoder(nn.mlp(5, 8, 16), IMAGE)
    story = CVAE(nn.mlp(3, 4), OfBoth(decoder), bernoulli)
    return story, CVAEGuide(OfBoth(nn.mlp(19, 8, 4), event_dim=3))


@pytest.fixture
def c():
    """The classes of the seven images."""
    return torch.eye(3)[[0, 2, 1, 1, 0, 2, 2]]


def test_the_story_and_the_guide_factorise_as_their_docstrings_say(pair, x, c):
    model, guide = pair
    trace = poutine.trace(model).get_trace(x=x, c=c)
    z = trace.nodes["z"]["value"]
    loc, log_scale = model.conditional_prior(c).chunk(2, -1)
    joint = dist.Normal(loc, log_scale.exp()).log_prob(z).sum()
    joint = joint + dist.Bernoulli(logits=model.decoder(c, z)).log_prob(x).sum()
    torch.testing.assert_close(trace.log_prob_sum(), joint)
    loc, log_scale = guide.encoder(x, c).chunk(2, -1)
    posterior = dist.Normal(loc, log_scale.exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(guide.posterior(x, c).log_prob(z), posterior)
    assert {name for name, site in trace.nodes.items() if site["type"] == "sample"} == {"data", "z", "x"}


def test_conditions_set_the_batch_and_nothing_is_believed_of_them(pair, c):
    model, _ = pair
    trace = poutine.trace(model).get_trace(c=c)
    assert trace.nodes["_RETURN"]["value"].shape == (7, *IMAGE)
    torch.testing.assert_close(trace.nodes["z"]["fn"].mean, model.prior(c).mean)


def test_the_bound_is_that_of_pyro_at_the_same_draw(pair, x, c):
    model, guide = pair
    torch.manual_seed(1)
    expected = TraceMeanField_ELBO(max_plate_nesting=1).loss(model, guide, x=x, c=c)
    torch.manual_seed(1)
    torch.testing.assert_close(7 * mean_field(model, guide, x=x, c=c)["loss"].item(), expected)


def test_a_linear_story_under_its_exact_posterior_gives_log_p_of_x_given_c():
    """Of one latent: z ~ Normal(a c + b, r), x ~ Normal(w z + V c + d, s), and q the posterior."""
    a, b, r = torch.randn(1, 2), torch.randn(1), torch.tensor([0.6])
    w, v, d, s = torch.randn(3, 1), torch.randn(3, 2), torch.randn(3), 0.7
    x, c = torch.randn(7, 3), torch.randn(7, 2)

    precision = 1 / r**2 + w.square().sum() / s**2
    gain = w / s**2 / precision  # of x - V c - d on the mean of z
    of_x, of_c = gain.T, a / r**2 / precision - gain.T @ v
    constant = (b / r**2 - (w.T @ d) / s**2) / precision
    prior = linear(torch.cat([a, torch.zeros(1, 2)]), torch.cat([b, r.log()]))
    encoder = linear(
        torch.cat([torch.cat([of_x, of_c], 1), torch.zeros(1, 5)]),
        torch.cat([constant, -0.5 * precision.log().reshape(1)]),
    )
    model = CVAE(prior, OfBoth(linear(torch.cat([v, w], 1), d)), NormalLikelihood(s, event_dim=1))
    guide = CVAEGuide(OfBoth(encoder))

    covariance = r**2 * w @ w.T + s**2 * torch.eye(3)
    evidence = dist.MultivariateNormal((c @ a.T + b) @ w.T + c @ v.T + d, covariance).log_prob(x)
    torch.testing.assert_close(log_weights(model, guide, particles=4, x=x, c=c), evidence.expand(4, 7))


def test_given_pixels_are_certain_and_log_p_counts_the_others_alone(x):
    given = torch.zeros(IMAGE, dtype=torch.bool)
    given[:, 2:, :2] = True
    c = x * given
    decoder = nn.Conditional(nn.encoder(nn.mlp(16, 8), IMAGE), nn.mlp(2, 8), nn.decoder(nn.mlp(8, 16), IMAGE))
    model = CVAE(nn.encoder(nn.mlp(16, 4), IMAGE), decoder, bernoulli, given)
    z = torch.randn(5, 7, 2)
    p = model.likelihood_of(z, c)
    each = dist.Bernoulli(logits=decoder(c, z)).log_prob(x)
    assert (p.batch_shape, p.event_shape) == ((5, 7), IMAGE)
    torch.testing.assert_close(p.log_prob(x), each[..., ~given].sum(-1))
    torch.testing.assert_close(p.log_prob(torch.where(given, 1 - x, x)), p.log_prob(x))
    drawn = p.expand([3, 5, 7]).sample()
    assert (drawn == x)[..., given.expand_as(x[0])].all()
    assert (drawn[0] != drawn[1]).any()
    torch.testing.assert_close(p.mean, torch.where(given, c, decoder(c, z).sigmoid()))
    assert (p.variance[..., given.expand_as(x[0])] == 0).all()
    replicates = poutine.uncondition(model)(x=x, c=c)
    assert (replicates == x)[..., given.expand_as(x[0])].all()
    assert (replicates != x).any()


def test_given_grey_pixels_are_drawn_black_or_white_as_the_others_are():
    """Or statistics of draws would be of another kind of pixel than those of the data."""
    given = torch.tensor([[[True, False]]])
    model = CVAE(nn.mlp(2, 4), OfBoth(nn.decoder(nn.mlp(4, 2), (1, 1, 2)), event_dim=3), grey_bernoulli, given)
    c = torch.tensor([[[[0.3, 0.0]]]])
    drawn = model.likelihood_of(torch.randn(1, 2), c).sample((20_000,))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn[..., 0].mean(), torch.tensor(0.3), rtol=0, atol=0.02)


def dataset(n=12, labels=True, shape=(1, 28, 28)):
    """Random grey images in three equal splits, of classes 0, 1 and 2."""
    x = torch.randint(0, 256, (n, *shape), dtype=torch.uint8)
    split = Split(x, torch.arange(n) % 3 if labels else None)
    return Dataset("noise", "grey", split, split, split)


@pytest.mark.parametrize(("given", "share"), [("1", 1 / 4), ("2", 1 / 2), ("3", 3 / 4)])
def test_the_quadrants_are_those_of_the_tutorial(given, share):
    data = dataset()
    pixels = CVAERecipe(given=given).given_pixels(data)
    assert pixels.shape == data.shape
    assert pixels.double().mean() == share
    top, bottom = pixels[0].chunk(2)
    quadrants = [part.all().item() for row in (top, bottom) for part in row.chunk(2, -1)]
    assert quadrants == [given in "23", given == "3", True, False]  # top left, top right, bottom left, bottom right


@pytest.mark.parametrize("given", ["1", "2", "3"])
@pytest.mark.parametrize("network", ["residual", "mlp"])
def test_hidden_pixels_reach_neither_the_condition_nor_what_it_says(given, network):
    recipe, data = CVAERecipe(given=given, network=network, latent_dim=3), dataset()
    model, _ = recipe.pair(data)
    seen = recipe.given_pixels(data)
    split = data.test
    other = Split(torch.where(seen, split.x, 255 - split.x), split.labels)
    batch, changed = recipe.batch(data, split), recipe.batch(data, other)
    assert (batch["x"] != changed["x"])[:, ~seen].all()
    assert torch.equal(batch["c"], changed["c"])
    assert torch.equal(batch["c"][:, seen], batch["x"][:, seen])
    z = torch.randn(12, 3)
    torch.testing.assert_close(model.prior(batch["c"]).mean, model.prior(changed["c"]).mean)
    p, x = model.likelihood_of(z, batch["c"]), batch["x"]
    logits = model.decoder(batch["c"], z)
    by_hand = x * torch.nn.functional.logsigmoid(logits) + (1 - x) * torch.nn.functional.logsigmoid(-logits)
    torch.testing.assert_close(p.log_prob(x), by_hand[:, ~seen].sum(-1))


def test_the_label_is_given_as_one_hot_and_data_without_labels_are_refused():
    recipe, data = CVAERecipe(given="label", latent_dim=3), dataset()
    recipe.check_data(data)
    batch = recipe.batch(data, data.test)
    assert torch.equal(batch["c"], torch.eye(3)[data.test.labels])
    model, guide = recipe.pair(data)
    assert model.given is None
    assert mean_field(model, guide, **batch)["loss"].isfinite()
    with pytest.raises(UserError, match="`given=label` needs the labels of all data"):
        recipe.check_data(dataset(labels=False))


def test_the_unit_names_the_condition():
    assert CVAERecipe().unit(dataset()) == "nats per image, grey pixels, 1 quadrant given"
    assert CVAERecipe(given="3", pixels="static").unit(dataset()) == "nats per image, static pixels, 3 quadrants given"
    assert CVAERecipe(given="label").unit(dataset()) == "nats per image, grey pixels, label given"


@pytest.mark.parametrize("given", ["2", "label"])
def test_completions_show_what_is_given_some_draws_and_the_image(given):
    recipe, data = CVAERecipe(given=given), dataset()
    model, guide = recipe.pair(data)
    (figure,) = completions(SimpleNamespace(recipe=recipe, dataset=data, model=model, guide=guide)).values()
    names = [axes.get_ylabel() for axes in figure.axes]
    assert names == [*["given"] * (given == "2"), *(f"sample {k}" for k in range(1, 6)), "image"]


def linear(weight, bias):
    """A linear layer of given weights."""
    layer = Linear(*reversed(weight.shape))
    layer.weight.data, layer.bias.data = weight, bias
    return layer
