"""Conditions on attributes: in words and as indices, and what a pair generates and infers under them."""

import itertools

import pytest
import torch
from pyro_models.guides.jmvae import JMVAEGuide
from torch import nn

from pyro_models import nn as nets
from pyro_models.base.errors import UserError
from pyro_models.data import Attribute
from pyro_models.distributions import NormalLikelihood
from pyro_models.jmvae import JMVAE
from pyro_models.metrics import conditions as module
from pyro_models.metrics.conditions import describe, generate_given, parse_conditions, posterior_means
from pyro_models.metrics.evaluation import eval_mode

COLOUR = Attribute("colour", ("red", "green", "blue"))
SIZE = Attribute("size", ("small", "big"))
PLACE = Attribute("place", ("left", "middle", "right", "nowhere"))
THREE = (COLOUR, SIZE, PLACE)
SHAPE = (1, 2, 3)
SCALE = 0.3


@pytest.fixture
def pair():
    """A story whose decoder is linear and whose pixels have a known noise, and its guide, both untrained."""
    sizes = {f"y{i}": attribute.size for i, attribute in enumerate(THREE, 1)}
    heads = {site: nets.mlp(2, 4, size) for site, size in sizes.items()}
    story = JMVAE(nets.decoder(nn.Linear(2, 6), SHAPE), NormalLikelihood(SCALE), heads, 2)
    encoder = nets.Conditional(nets.encoder(nets.mlp(6, 4), SHAPE), nn.Linear(6, 4), nn.Linear(4, 4))
    experts = {site: nn.Sequential(nn.Dropout(0.5), nets.mlp(size, 8, 4)) for site, size in sizes.items()}
    return story, JMVAEGuide(encoder, experts, sizes)


def posterior_of(guide, values):
    """q(z | the values that are given), by the guide itself, of one combination: a missing attribute is left out."""
    given = {
        f"y{i}": attribute.one_hot(torch.tensor([value]))
        for i, (attribute, value) in enumerate(zip(THREE, values, strict=True), 1)
        if value >= 0
    }
    with eval_mode(guide):
        return guide.posterior(**given)


def test_images_are_decoded_from_latents_of_the_posterior_given_the_attributes(pair):
    model, guide = pair
    values = torch.tensor([[0, 1, 3], [2, -1, -1], [-1, -1, 0]])
    x = generate_given(model, guide, THREE, values, mean=True, seed=5)
    y = {f"y{i}": attribute.one_hot(values[:, i - 1]) for i, attribute in enumerate(THREE, 1)}
    with eval_mode(model, guide, seed=5):
        expected = model.decoder(guide.posterior(**y).sample())
    torch.testing.assert_close(x, expected)
    assert guide.training  # again


@pytest.mark.parametrize("mean", [True, False])
def test_the_moments_of_images_are_those_of_the_posterior_through_the_decoder(pair, mean):
    """An attribute that is not given counts as little as if there were none."""
    model, guide = pair
    n = 20_000
    x = generate_given(model, guide, THREE, torch.tensor([[1, -1, 2]]).expand(n, -1), mean=mean).flatten(1)
    q = posterior_of(guide, (1, -1, 2))
    loc = model.decoder(q.mean)[0].flatten()
    weight = next(p for p in model.decoder.parameters() if p.ndim == 2).detach()
    variance = (weight.square() * q.variance).sum(-1) + (0.0 if mean else SCALE**2)
    assert torch.allclose(x.mean(0), loc, atol=5 * variance.max().sqrt().item() / n**0.5)
    assert torch.allclose(x.var(0), variance, rtol=0.05)


def test_images_follow_from_the_seed_whatever_the_state_and_the_batches_do_not_change_how_many(pair):
    values = torch.tensor([[0, 1, 3]]).expand(7, -1)
    x = generate_given(*pair, THREE, values, seed=3)
    state = torch.manual_seed(99).get_state()
    assert torch.equal(generate_given(*pair, THREE, values, seed=3), x)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(generate_given(*pair, THREE, values, seed=4), x)
    assert len({tuple(image.flatten().tolist()) for image in x}) == 7
    for batch_size in (1, 3, 7, 8):
        assert generate_given(*pair, THREE, values, batch_size=batch_size).shape == (7, *SHAPE)


def test_the_means_of_all_combinations_are_the_guides_the_last_attribute_fastest(pair):
    _, guide = pair
    choices, means = posterior_means(guide, THREE)
    assert choices == [
        {"name": "colour", "values": ["not given", "red", "green", "blue"]},
        {"name": "size", "values": ["not given", "small", "big"]},
        {"name": "place", "values": ["not given", "left", "middle", "right", "nowhere"]},
    ]
    assert means.shape == (4 * 3 * 5, 2)
    assert torch.equal(means[0], torch.zeros(2))  # of the prior: nothing is given
    for row, values in enumerate(itertools.product(range(-1, 3), range(-1, 2), range(-1, 4))):
        if row:
            torch.testing.assert_close(means[row].double(), posterior_of(guide, values).mean[0], rtol=1e-5, atol=1e-6)
    assert guide.training


@pytest.mark.parametrize(("most", "used"), [(120, 3), (119, 2), (24, 2), (23, 1), (8, 1), (7, 0)])
def test_of_too_many_combinations_those_of_the_first_attributes_are_used(pair, monkeypatch, most, used):
    _, guide = pair
    _, every = posterior_means(guide, THREE)
    monkeypatch.setattr(module, "MOST_NUMBERS", most)
    choices, means = posterior_means(guide, THREE)
    assert [choice["name"] for choice in choices] == ["colour", "size", "place"][:used]
    every = every.reshape(4, 3, 5, 2)
    expected = {3: every, 2: every[:, :, 0], 1: every[:, 0, 0], 0: torch.empty(0, 2)}[used]
    torch.testing.assert_close(means, expected.reshape(-1, 2))


@pytest.mark.parametrize(
    ("words", "values", "description"),
    [
        (["size=big"], [-1, 1, -1], "big"),
        (["place=left", "colour=blue"], [2, -1, 0], "blue left"),
        (["colour=red", "size=small", "place=nowhere"], [0, 0, 3], "red small nowhere"),
        (["size=big", "size=big"], [-1, 1, -1], "big"),
    ],
)
def test_conditions_are_parsed_and_described(words, values, description):
    parsed = parse_conditions(THREE, words)
    assert parsed.tolist() == [values]
    assert describe(THREE, parsed[0]) == description


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no condition is given: give `given=NAME=VALUE`, with a name out of colour, size, place"),
        (["big"], "`given=big`: give NAME=VALUE, as colour=red"),
        (["sise=big"], "`given=sise=big`: unknown attribute 'sise': did you mean 'size'?"),
        (["weight=big"], "`given=weight=big`: unknown attribute 'weight': choose from colour, size, place"),
        (["=big"], "`given==big`: unknown attribute ''"),
        (["size=bigger"], "unknown size 'bigger': did you mean 'big'? choose from small, big"),
        (["size=7"], "unknown size '7': choose from small, big"),
        (["size="], "unknown size '': choose from small, big"),
        (["size=big", "colour=red", "size=small"], "`given=size=small` contradicts size=big"),
    ],
)
def test_conditions_that_cannot_be_parsed_get_one_line(words, message):
    with pytest.raises(UserError) as error:
        parse_conditions(THREE, words)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


NUMBERED = (Attribute("y1", ("0", "1")), Attribute("y2", ("0", "1", "2")))


def test_no_two_conditions_have_one_description():
    """Values of one's own data are numbers, and pictures are named by the description."""
    assert describe(NUMBERED, torch.tensor([1, -1])) == "y1=1"
    assert describe(NUMBERED, torch.tensor([-1, 1])) == "y2=1"
