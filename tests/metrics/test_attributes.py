"""The three C's: what is asked for, whether images show it, and whether they vary as the training data do."""

import math
from dataclasses import replace
from functools import partial
from itertools import combinations
from types import SimpleNamespace

import pyro.distributions as dist
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import nn

from guides.jmvae import JMVAEGuide
from pyro_models import nn as nets
from pyro_models.base.errors import UserError
from pyro_models.base.seeds import derived_seed
from pyro_models.data import Attribute, Dataset, Split, load, to_float
from pyro_models.distributions import NormalLikelihood
from pyro_models.jmvae import JMVAE
from pyro_models.metrics import attributes as module
from pyro_models.metrics.attributes import (
    AttributeClassifier,
    asked_for,
    attribute_classifier,
    correctness,
    coverage,
    frequencies,
    imagine,
    jensen_shannon,
    queries,
    said,
    three_cs,
)
from pyro_models.metrics.evaluation import evaluation

COLOUR = Attribute("colour", ("red", "green", "blue"))
SIZE = Attribute("size", ("small", "big"))
PLACE = Attribute("place", ("left", "middle", "right", "nowhere"))
THREE = (COLOUR, SIZE, PLACE)


def tuples(codes):
    return sorted(map(tuple, codes.tolist()))


def split_of(rows):
    codes = torch.tensor(rows)
    return Split(torch.zeros(len(codes), 1, 8, 8, dtype=torch.uint8), attributes=codes)


@pytest.mark.parametrize("given", [1, 2, 3])
def test_queries_are_all_that_a_split_has_of_so_many_attributes_each_once(given):
    rows = torch.stack([torch.randint(0, len(attribute.values), (12,)) for attribute in THREE], -1).tolist()
    expected = {
        tuple(code if k in chosen else -1 for k, code in enumerate(row))
        for row in rows
        for chosen in combinations(range(3), given)
    }
    assert tuples(queries(split_of(rows + rows), given)) == sorted(expected)


def test_queries_of_attributes_that_are_partly_missing_are_of_what_is_known():
    """A datum of which two attributes are known has a combination of these two, and each alone."""
    split = split_of([[0, 1, -1], [2, -1, 3], [-1, -1, -1], [1, 0, 2]])
    assert tuples(queries(split, 3)) == [(1, 0, 2)]
    assert tuples(queries(split, 2)) == [(-1, 0, 2), (0, 1, -1), (1, -1, 2), (1, 0, -1), (2, -1, 3)]
    alone = [(-1, -1, 2), (-1, -1, 3), (-1, 0, -1), (-1, 1, -1), (0, -1, -1), (1, -1, -1), (2, -1, -1)]
    assert tuples(queries(split, 1)) == alone


def test_of_too_many_queries_the_same_few_are_drawn_whatever_the_state():
    split = load("digits").test
    whole = tuples(queries(split, 1))
    assert whole == [(digit,) for digit in range(10)]
    few = queries(split, 1, most=4)
    torch.manual_seed(99)
    assert torch.equal(queries(split, 1, most=4), few)
    assert len(set(tuples(few))) == 4
    assert set(tuples(few)) < set(whole)


def test_correctness_is_the_share_of_what_was_asked_for():
    asked = torch.tensor([[0, 1, -1], [2, -1, -1]])
    told = torch.tensor([[[0, 1, 3], [0, 0, 1]], [[2, 0, 0], [1, 1, 1]]])
    assert correctness(asked, told) == pytest.approx(4 / 6)  # right: 2 and 1 of 2, 1 and 0 of 1
    assert correctness(told[:, 0], told[:, :1]) == 1.0
    assert correctness(told[:, 0] + 1, told[:, :1]) == 0.0


def test_coverage_is_1_where_images_are_as_the_training_data():
    train = torch.tensor([[0, 0, 0], [0, 1, 0], [0, 1, 3], [0, 1, 3], [1, 1, 2], [1, 0, 2]])
    asked = torch.tensor([[0, -1, -1], [1, -1, -1]])
    told = torch.stack([train[[0, 1, 2, 3] * 3], train[[4, 5] * 6]])
    assert coverage(asked, told, train) == pytest.approx(1.0)


def test_coverage_is_by_what_is_given_and_not_by_all_training_data():
    """Half of all are small, but all red ones are: images half of which are small are not as red ones are."""
    train = torch.tensor([[0, 0], [0, 0], [1, 1], [1, 1]])
    half = torch.tensor([[0, 0], [0, 1]])
    overlap = 1 - jensenshannon([1, 0], [0.5, 0.5], base=2) ** 2
    assert coverage(torch.tensor([[0, -1]]), half[None], train) == pytest.approx(overlap)
    assert coverage(torch.tensor([[0, -1]]), half[None, :1], train) == pytest.approx(1.0)


def test_coverage_is_1_less_the_mean_divergence_of_what_is_open():
    train = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 2], [0, 1, 3]])
    told = torch.tensor([[[0, 0, 0], [0, 0, 0]], [[0, 1, 0], [0, 0, 1]]])
    asked = torch.tensor([[0, -1, -1], [0, 0, -1]])
    first = [([0.5, 0.5], [1, 0]), ([0.25] * 4, [1, 0, 0, 0])]  # sizes and places of all; one size, one place
    second = [([0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0])]  # places of the small ones
    overlaps = [1 - jensenshannon(p, q, base=2) ** 2 for p, q in first + second]
    assert coverage(asked[:1], told[:1], train) == pytest.approx(sum(overlaps[:2]) / 2)
    assert coverage(asked, told, train) == pytest.approx(sum(overlaps) / 3)


def test_coverage_by_hand_of_one_value_where_there_are_two():
    """M = (3/4, 1/4): JS = (KL((1/2, 1/2) || M) + KL((1, 0) || M)) / 2 = (1 - log2(3) / 2 + 2 - log2(3)) / 2."""
    train, told = torch.tensor([[0, 0], [0, 1]]), torch.tensor([[[0, 0], [1, 0], [0, 0]]])
    expected = 1 - (3 - 1.5 * math.log2(3)) / 2
    assert coverage(torch.tensor([[0, -1]]), told, train) == pytest.approx(expected)


@pytest.mark.parametrize("shown", [1, 2], ids=["a value of others", "a value that training never has"])
def test_coverage_is_0_for_other_values(shown):
    train = torch.tensor([[0, 0], [1, 1]])
    assert coverage(torch.tensor([[0, -1]]), torch.tensor([[[0, shown]]]), train) == pytest.approx(0.0)


def test_coverage_of_what_training_never_has_is_by_all_training_data():
    train = torch.tensor([[0, 0, 0], [1, 1, 1]])
    told = torch.tensor([[[0, 1, 0], [0, 1, 1]]])
    assert coverage(torch.tensor([[0, 1, -1]]), told, train) == pytest.approx(1.0)


def test_coverage_leaves_out_training_data_of_which_it_is_not_known():
    train = torch.tensor([[0, 0], [0, 1], [0, -1], [-1, 0], [-1, 0]])
    told = torch.tensor([[[0, 0], [0, 1]]])
    assert coverage(torch.tensor([[0, -1]]), told, train) == pytest.approx(1.0)


def test_coverage_is_a_number_where_nothing_open_is_known_of_like_data():
    train = torch.tensor([[0, -1], [0, -1], [1, 0], [1, 1]])
    told = torch.tensor([[[0, 0], [0, 1]]])
    assert 0 <= coverage(torch.tensor([[0, -1]]), told, train) <= 1


def test_frequencies_are_shares_of_what_is_known():
    assert frequencies(torch.tensor([2, -1, 0, 2, -1]), 4).tolist() == pytest.approx([1 / 3, 0, 2 / 3, 0])


@pytest.mark.parametrize("kinds", [2, 3, 10])
def test_the_divergence_is_scipys(kinds):
    p, q = torch.rand(2, kinds).softmax(-1)
    assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q, base=2) ** 2)
    assert jensen_shannon(q, p) == pytest.approx(jensen_shannon(p, q))
    assert jensen_shannon(p, p) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("p", "q"), [([1, 0], [0, 1]), ([1, 0], [0.5, 0.5]), ([0.5, 0.5, 0], [1, 0, 0]), ([0, 1, 0], [0, 1, 0]), ([1], [1])]
)
def test_the_divergence_is_scipys_where_a_value_never_occurs(p, q):
    found = jensen_shannon(torch.tensor(p).double(), torch.tensor(q).double())
    assert found == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-12)


@pytest.fixture(scope="module")
def sides():
    return load("attributes")


def accuracy(classifier, split):
    codes = split.attributes
    return (classifier.told(to_float(split.x, "grey")) == codes).double().mean().item()


@pytest.mark.parametrize("known", [1.0, 0.4], ids=["all known", "two in five known"])
def test_the_classifier_learns_sides_and_digits_in_a_few_steps(sides, known):
    torch.set_default_dtype(torch.float32)
    train = sides.train
    hidden = torch.rand(train.attributes.shape) > known
    some = replace(sides, train=replace(train, attributes=train.attributes.masked_fill(hidden, -1)))
    assert accuracy(attribute_classifier(some, "grey", steps=20), sides.test) >= 0.95


def test_attributes_that_are_never_known_teach_nothing(sides):
    """The output layer keeps the first weights of the digit alone, whose codes are missing."""
    torch.set_default_dtype(torch.float32)
    codes = sides.train.attributes.clone()
    codes[:, 1] = -1
    trained = attribute_classifier(replace(sides, train=replace(sides.train, attributes=codes)), "grey", steps=2)
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(0, "attribute classifier"))
        first = AttributeClassifier(sides.shape, sides.attributes)
    before, after = (classifier.network.what[-1].weight for classifier in (first, trained))
    assert torch.equal(before[2:], after[2:])
    assert not torch.isclose(before[:2], after[:2]).all()


def test_the_classifier_depends_on_its_seed_alone_and_leaves_the_noise_alone(sides):
    torch.set_default_dtype(torch.float32)
    state = torch.get_rng_state()
    first = attribute_classifier(sides, "grey", steps=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again, other = (attribute_classifier(sides, "grey", steps=1, seed=seed) for seed in (0, 1))
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    assert not torch.equal(first.network.what[-1].weight, other.network.what[-1].weight)


def test_the_classifier_learns_from_the_images_for_judges_where_there_are_some(sides):
    torch.set_default_dtype(torch.float32)
    some = replace(sides, judges=sides.validation)
    judge = attribute_classifier(some, "grey", steps=2)
    same, other = (
        attribute_classifier(replace(sides, train=part), "grey", steps=2) for part in (some.judges, sides.train)
    )
    weights = [list(classifier.parameters()) for classifier in (judge, same, other)]
    assert all(torch.equal(one, two) for one, two in zip(weights[0], weights[1], strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(weights[0], weights[2], strict=True))


def test_the_classifier_tells_the_likeliest_value_of_each_attribute_whatever_the_batches(sides):
    classifier = AttributeClassifier((1, 8, 8), THREE)
    x = torch.rand(7, 1, 8, 8)
    with evaluation(classifier):
        logits = classifier(x)
    assert [part.shape for part in logits] == [(7, 3), (7, 2), (7, 4)]
    expected = torch.stack([part.argmax(-1) for part in logits], -1)
    for batch_size in (1, 3, 1000):
        assert torch.equal(classifier.told(x, batch_size), expected)
    assert classifier.training


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


def signs_of(codes):
    return {f"y{i}": attribute.one_hot(codes[:, i - 1]) for i, attribute in enumerate(THREE, 1)}


def test_images_are_decoded_from_codes_of_the_posterior_given_the_attributes(pair):
    model, guide = pair
    codes = torch.tensor([[0, 1, 3], [2, -1, -1], [-1, -1, 0]])
    x = imagine(model, guide, THREE, codes, mean=True, seed=5)
    with evaluation(model, guide, seed=5):
        expected = model.decoder(guide.posterior(**signs_of(codes)).sample())
    assert torch.allclose(x, expected)
    assert guide.training  # again


@pytest.mark.parametrize("mean", [True, False])
def test_the_moments_of_images_are_those_of_the_posterior_through_the_decoder(pair, mean):
    """Attributes that are not given count as little as if there were none."""
    model, guide = pair
    n = 20_000
    x = imagine(model, guide, THREE, torch.tensor([[1, -1, 2]]).expand(n, -1), mean=mean).flatten(1)
    known = {"y1": COLOUR.one_hot(torch.tensor([1])), "y3": PLACE.one_hot(torch.tensor([2]))}
    with evaluation(model, guide):
        q = guide.posterior(**known)
        loc = model.decoder(q.mean)[0].flatten()
    weight = next(p for p in model.decoder.parameters() if p.ndim == 2).detach()
    variance = (weight.square() * q.variance).sum(-1) + (0.0 if mean else SCALE**2)
    assert torch.allclose(x.mean(0), loc, atol=5 * variance.max().sqrt().item() / n**0.5)
    assert torch.allclose(x.var(0), variance, rtol=0.05)


def test_images_follow_from_the_seed_whatever_the_state_and_the_batches_do_not_change_how_many(pair):
    codes = torch.tensor([[0, 1, 3]]).expand(7, -1)
    x = imagine(*pair, THREE, codes, seed=3)
    state = torch.manual_seed(99).get_state()
    assert torch.equal(imagine(*pair, THREE, codes, seed=3), x)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(imagine(*pair, THREE, codes, seed=4), x)
    assert len({tuple(image.flatten().tolist()) for image in x}) == 7
    for batch_size in (1, 3, 7, 8):
        assert imagine(*pair, THREE, codes, batch_size=batch_size).shape == (7, *SHAPE)


@pytest.mark.parametrize(
    ("words", "codes", "spoken"),
    [
        (["size=big"], [-1, 1, -1], "big"),
        (["place=left", "colour=blue"], [2, -1, 0], "blue left"),
        (["colour=red", "size=small", "place=nowhere"], [0, 0, 3], "red small nowhere"),
        (["size=big", "size=big"], [-1, 1, -1], "big"),
    ],
)
def test_what_is_asked_for_is_read_and_said(words, codes, spoken):
    asked = asked_for(THREE, words)
    assert asked.tolist() == [codes]
    assert said(THREE, asked[0]) == spoken


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "nothing is given: say --given NAME=VALUE, with a name out of colour, size, place"),
        (["big"], "--given big: say NAME=VALUE, as colour=red"),
        (["sise=big"], "--given sise=big: unknown attribute 'sise': did you mean 'size'?"),
        (["weight=big"], "--given weight=big: unknown attribute 'weight': choose from colour, size, place"),
        (["=big"], "--given =big: unknown attribute ''"),
        (["size=bigger"], "unknown size 'bigger': did you mean 'big'? choose from small, big"),
        (["size=7"], "unknown size '7': choose from small, big"),
        (["size="], "unknown size '': choose from small, big"),
        (["size=big", "colour=red", "size=small"], "--given size=small contradicts size=big"),
    ],
)
def test_what_cannot_be_asked_for_gets_one_line(words, complaint):
    with pytest.raises(UserError) as caught:
        asked_for(THREE, words)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


NUMBERED = (Attribute("y1", ("0", "1")), Attribute("y2", ("0", "1", "2")))


def test_what_is_said_of_one_attribute_is_not_what_is_said_of_another():
    """Values of one's own data are numbers, and pictures are named by what is said."""
    assert said(NUMBERED, torch.tensor([1, -1])) != said(NUMBERED, torch.tensor([-1, 1]))


TWO = (COLOUR, SIZE)


def rendered(codes):
    """Images that show their attributes: a bar of ink in one of three rows, thin or thick: [n, 1, 8, 8] of 0 and 1."""
    x = torch.zeros(len(codes), 1, 8, 8)
    for image, (colour, size) in zip(x, codes.tolist(), strict=True):
        image[0, 2 * colour + 1, : 8 if size else 3] = 1.0
    return x


class Renderer(nn.Module):
    """A story whose code is the attributes."""

    def decoder(self, z):
        return rendered(z)

    def likelihood(self, loc):
        return dist.Delta(loc, event_dim=3)


class Chooser(nn.Module):
    """A guide that fills in, evenly, what is not given, or nothing of what is given where it `ignores` it."""

    def __init__(self, ignores=False, constant=None):
        super().__init__()
        self.ignores = ignores
        self.constant = constant

    def posterior(self, y1, y2):
        n = len(y1)
        evenly = torch.stack([torch.randint(0, 3, (n,)), torch.randint(0, 2, (n,))], -1)
        if self.constant is not None:
            evenly = torch.tensor(self.constant).expand(n, -1)
        given = torch.stack([y1.argmax(-1), y2[:, 0].nan_to_num(0).long()], -1)
        known = ~torch.stack([y1.isnan().any(-1), y2.isnan().any(-1)], -1)
        return dist.Delta(evenly if self.ignores else torch.where(known, given, evenly), event_dim=1)


@pytest.fixture
def judged(monkeypatch):
    """Judge a guide of the renderer, on a data set that has each combination as often."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(module, "attribute_classifier", partial(attribute_classifier, steps=80))
    codes = torch.cartesian_prod(torch.arange(3), torch.arange(2)).repeat(20, 1)
    split = Split((rendered(codes) * 255).to(torch.uint8), attributes=codes)
    dataset = Dataset("bars", "grey", split, split, split[:6], attributes=TWO)

    def judge(guide):
        recipe = SimpleNamespace(pixels="grey")
        run = SimpleNamespace(dataset=dataset, recipe=recipe, attributes=TWO, model=Renderer(), guide=guide)
        return three_cs(run)["test"]

    return judge


def test_a_run_that_does_all_that_is_asked_for_gets_1_throughout(judged):
    found = judged(Chooser())
    assert found == {
        "classifier_accuracy": 1.0,
        "correctness": 1.0,
        "correctness_1": 1.0,
        "coverage_1": pytest.approx(1.0, abs=0.01),
        "coverage": found["coverage_1"],
    }


def test_a_run_that_ignores_what_is_asked_for_is_right_by_chance_and_varied(judged):
    """A third of the colours and half of the sizes are right; of one attribute alone, asked of 3 and of 2 values."""
    found = judged(Chooser(ignores=True))
    assert found["correctness"] == pytest.approx((1 / 3 + 1 / 2) / 2, abs=0.03)
    assert found["correctness_1"] == pytest.approx((3 * 1 / 3 + 2 * 1 / 2) / 5, abs=0.05)
    assert found["coverage"] == pytest.approx(1.0, abs=0.01)


def test_a_run_that_shows_one_image_alone_is_right_as_often_and_covers_one_value(judged):
    found = judged(Chooser(ignores=True, constant=(2, 1)))
    assert found["correctness"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert found["correctness_1"] == pytest.approx(2 / 5)
    sizes, colours = (1 - jensenshannon([1 / k] * k, [1] + [0] * (k - 1), base=2) ** 2 for k in (2, 3))
    assert found["coverage"] == pytest.approx((3 * sizes + 2 * colours) / 5)  # sizes of 3 colours, colours of 2 sizes
