"""The three C's: whether images show the attributes given, and whether they vary as the training data do."""

import math
from dataclasses import replace
from functools import partial
from itertools import combinations

import pyro.distributions as dist
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import nn

from pyro_models.base.seeds import derived_seed
from pyro_models.data import Attribute, Dataset, Split, load, to_float
from pyro_models.metrics import attributes as module
from pyro_models.metrics.attributes import (
    AttributeClassifier,
    attribute_classifier,
    correctness,
    coverage,
    frequencies,
    jensen_shannon,
    queries,
    three_cs,
)
from pyro_models.metrics.conditions import generate_given
from pyro_models.metrics.evaluation import eval_mode

COLOUR = Attribute("colour", ("red", "green", "blue"))
SIZE = Attribute("size", ("small", "big"))
PLACE = Attribute("place", ("left", "middle", "right", "nowhere"))
THREE = (COLOUR, SIZE, PLACE)


def tuples(values):
    return sorted(map(tuple, values.tolist()))


def split_of(rows):
    values = torch.tensor(rows)
    return Split(torch.zeros(len(values), 1, 8, 8, dtype=torch.uint8), attributes=values)


@pytest.mark.parametrize("given", [1, 2, 3])
def test_queries_are_all_combinations_of_so_many_attributes_in_a_split_each_once(given):
    rows = torch.stack([torch.randint(0, len(attribute.values), (12,)) for attribute in THREE], -1).tolist()
    expected = {
        tuple(value if k in chosen else -1 for k, value in enumerate(row))
        for row in rows
        for chosen in combinations(range(3), given)
    }
    assert tuples(queries(split_of(rows + rows), given)) == sorted(expected)


def test_queries_leave_out_missing_values():
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


def test_correctness_is_the_share_of_the_values_given():
    given = torch.tensor([[0, 1, -1], [2, -1, -1]])
    predicted = torch.tensor([[[0, 1, 3], [0, 0, 1]], [[2, 0, 0], [1, 1, 1]]])
    assert correctness(given, predicted) == pytest.approx(4 / 6)  # right: 2 and 1 of 2, 1 and 0 of 1
    assert correctness(predicted[:, 0], predicted[:, :1]) == 1.0
    assert correctness(predicted[:, 0] + 1, predicted[:, :1]) == 0.0


def test_coverage_is_1_where_images_are_as_the_training_data():
    train = torch.tensor([[0, 0, 0], [0, 1, 0], [0, 1, 3], [0, 1, 3], [1, 1, 2], [1, 0, 2]])
    given = torch.tensor([[0, -1, -1], [1, -1, -1]])
    predicted = torch.stack([train[[0, 1, 2, 3] * 3], train[[4, 5] * 6]])
    assert coverage(given, predicted, train) == pytest.approx(1.0)


def test_coverage_is_by_training_data_of_the_values_given_and_not_by_all():
    """Half of all are small, but all red ones are: images half of which are small are not as red ones are."""
    train = torch.tensor([[0, 0], [0, 0], [1, 1], [1, 1]])
    half = torch.tensor([[0, 0], [0, 1]])
    overlap = 1 - jensenshannon([1, 0], [0.5, 0.5], base=2) ** 2
    assert coverage(torch.tensor([[0, -1]]), half[None], train) == pytest.approx(overlap)
    assert coverage(torch.tensor([[0, -1]]), half[None, :1], train) == pytest.approx(1.0)


def test_coverage_is_1_less_the_mean_divergence_of_the_attributes_not_given():
    train = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 2], [0, 1, 3]])
    predicted = torch.tensor([[[0, 0, 0], [0, 0, 0]], [[0, 1, 0], [0, 0, 1]]])
    given = torch.tensor([[0, -1, -1], [0, 0, -1]])
    first = [([0.5, 0.5], [1, 0]), ([0.25] * 4, [1, 0, 0, 0])]  # sizes and places of all; one size, one place
    second = [([0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0])]  # places of the small ones
    overlaps = [1 - jensenshannon(p, q, base=2) ** 2 for p, q in first + second]
    assert coverage(given[:1], predicted[:1], train) == pytest.approx(sum(overlaps[:2]) / 2)
    assert coverage(given, predicted, train) == pytest.approx(sum(overlaps) / 3)


def test_coverage_by_hand_of_one_value_where_there_are_two():
    """M = (3/4, 1/4): JS = (KL((1/2, 1/2) || M) + KL((1, 0) || M)) / 2 = (1 - log2(3) / 2 + 2 - log2(3)) / 2."""
    train, predicted = torch.tensor([[0, 0], [0, 1]]), torch.tensor([[[0, 0], [1, 0], [0, 0]]])
    expected = 1 - (3 - 1.5 * math.log2(3)) / 2
    assert coverage(torch.tensor([[0, -1]]), predicted, train) == pytest.approx(expected)


@pytest.mark.parametrize("value", [1, 2], ids=["a value of others", "a value that training never has"])
def test_coverage_is_0_for_other_values(value):
    train = torch.tensor([[0, 0], [1, 1]])
    assert coverage(torch.tensor([[0, -1]]), torch.tensor([[[0, value]]]), train) == pytest.approx(0.0)


def test_coverage_of_values_that_training_never_has_is_by_all_training_data():
    train = torch.tensor([[0, 0, 0], [1, 1, 1]])
    predicted = torch.tensor([[[0, 1, 0], [0, 1, 1]]])
    assert coverage(torch.tensor([[0, 1, -1]]), predicted, train) == pytest.approx(1.0)


def test_coverage_leaves_out_missing_values_of_training_data():
    train = torch.tensor([[0, 0], [0, 1], [0, -1], [-1, 0], [-1, 0]])
    predicted = torch.tensor([[[0, 0], [0, 1]]])
    assert coverage(torch.tensor([[0, -1]]), predicted, train) == pytest.approx(1.0)


def test_coverage_is_a_number_where_like_training_data_miss_the_other_values():
    train = torch.tensor([[0, -1], [0, -1], [1, 0], [1, 1]])
    predicted = torch.tensor([[[0, 0], [0, 1]]])
    assert 0 <= coverage(torch.tensor([[0, -1]]), predicted, train) <= 1


def test_frequencies_are_shares_of_known_values():
    assert frequencies(torch.tensor([2, -1, 0, 2, -1]), 4).tolist() == pytest.approx([1 / 3, 0, 2 / 3, 0])


@pytest.mark.parametrize("values", [2, 3, 10])
def test_the_divergence_is_scipys(values):
    p, q = torch.rand(2, values).softmax(-1)
    assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q, base=2) ** 2)
    assert jensen_shannon(q, p) == pytest.approx(jensen_shannon(p, q))
    assert jensen_shannon(p, p) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("p", "q"), [([1, 0], [0, 1]), ([1, 0], [0.5, 0.5]), ([0.5, 0.5, 0], [1, 0, 0]), ([0, 1, 0], [0, 1, 0]), ([1], [1])]
)
def test_the_divergence_is_scipys_where_a_value_never_occurs(p, q):
    divergence = jensen_shannon(torch.tensor(p).double(), torch.tensor(q).double())
    assert divergence == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-12)


@pytest.fixture(scope="module")
def sides():
    return load("attributes")


def accuracy(classifier, split):
    return (classifier.predict(to_float(split.x, "grey")) == split.attributes).double().mean().item()


@pytest.mark.parametrize("known", [1.0, 0.4], ids=["all known", "two in five known"])
def test_the_classifier_learns_sides_and_digits_in_a_few_steps(sides, known):
    torch.set_default_dtype(torch.float32)
    train = sides.train
    hidden = torch.rand(train.attributes.shape) > known
    partly_known = replace(sides, train=replace(train, attributes=train.attributes.masked_fill(hidden, -1)))
    assert accuracy(attribute_classifier(partly_known, "grey", steps=20), sides.test) >= 0.95


def test_attributes_that_are_never_known_teach_nothing(sides):
    """The output layer keeps the first weights of the digit alone, whose values are missing."""
    torch.set_default_dtype(torch.float32)
    values = sides.train.attributes.clone()
    values[:, 1] = -1
    trained = attribute_classifier(replace(sides, train=replace(sides.train, attributes=values)), "grey", steps=2)
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
    assert all(torch.equal(*pair) for pair in pairs)
    assert not torch.equal(first.network.what[-1].weight, other.network.what[-1].weight)


def test_the_classifier_learns_from_the_images_set_apart_for_it_where_there_are_some(sides):
    torch.set_default_dtype(torch.float32)
    apart = replace(sides, all_combinations=sides.validation)
    judge = attribute_classifier(apart, "grey", steps=2)
    same, other = (
        attribute_classifier(replace(sides, train=part), "grey", steps=2)
        for part in (apart.all_combinations, sides.train)
    )
    weights = [list(classifier.parameters()) for classifier in (judge, same, other)]
    assert all(map(torch.equal, weights[0], weights[1]))
    assert not all(map(torch.equal, weights[0], weights[2]))


def test_the_classifier_predicts_the_likeliest_value_of_each_attribute_whatever_the_batches(sides):
    classifier = AttributeClassifier((1, 8, 8), THREE)
    x = torch.rand(7, 1, 8, 8)
    with eval_mode(classifier):
        logits = classifier(x)
    assert [part.shape for part in logits] == [(7, 3), (7, 2), (7, 4)]
    expected = torch.stack([part.argmax(-1) for part in logits], -1)
    for batch_size in (1, 3, 1000):
        assert torch.equal(classifier.predict(x, batch_size), expected)
    assert classifier.training


TWO = (COLOUR, SIZE)


def rendered(values):
    """Images that show their attributes: a bar of ink in one of three rows, thin or thick: [n, 1, 8, 8] of 0 and 1."""
    x = torch.zeros(len(values), 1, 8, 8)
    for image, (colour, size) in zip(x, values.tolist(), strict=True):
        image[0, 2 * colour + 1, : 8 if size else 3] = 1.0
    return x


class Renderer(nn.Module):
    """A story whose latent is the attributes."""

    def likelihood_of(self, z):
        return dist.Delta(rendered(z), event_dim=3)


class Chooser(nn.Module):
    """A guide that draws the attributes not given evenly, or all of them where it `ignores` those given."""

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


@pytest.fixture(scope="module")
def bars():
    """A data set that has each combination as often."""
    values = torch.cartesian_prod(torch.arange(3), torch.arange(2)).repeat(20, 1)
    split = Split((rendered(values) * 255).to(torch.uint8), attributes=values)
    return Dataset("bars", "grey", split, split, split[:6], attributes=TWO)


@pytest.fixture(scope="module")
def classifier_of_bars(bars):
    """A linear one, which is all that bars take."""
    torch.set_default_dtype(torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        linear = lambda shape, outputs: nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), outputs))  # noqa: E731
        patch.setattr(module, "spatial_classifier", linear)
        return attribute_classifier(bars, "grey", steps=300)


@pytest.fixture
def judged(monkeypatch, bars, classifier_of_bars):
    """Judge the images that a guide of the renderer leads to."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(module, "attribute_classifier", lambda dataset, pixels: classifier_of_bars)
    return lambda guide: three_cs(bars, "grey", partial(generate_given, Renderer(), guide, TWO))["test"]


def test_images_of_all_attributes_given_get_1_throughout(judged):
    scores = judged(Chooser())
    assert scores == {
        "classifier_accuracy": 1.0,
        "correctness": 1.0,
        "correctness_1": 1.0,
        "coverage_1": pytest.approx(1.0, abs=0.01),
        "coverage": scores["coverage_1"],
    }


def test_images_that_ignore_the_attributes_given_are_right_by_chance_and_varied(judged):
    """A third of the colours and half of the sizes are right; of a single attribute, given as 3 and as 2 values."""
    scores = judged(Chooser(ignores=True))
    assert scores["correctness"] == pytest.approx((1 / 3 + 1 / 2) / 2, abs=0.03)
    assert scores["correctness_1"] == pytest.approx((3 * 1 / 3 + 2 * 1 / 2) / 5, abs=0.05)
    assert scores["coverage"] == pytest.approx(1.0, abs=0.01)


def test_the_same_image_each_time_is_right_as_often_and_covers_one_value(judged):
    scores = judged(Chooser(ignores=True, constant=(2, 1)))
    assert scores["correctness"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert scores["correctness_1"] == pytest.approx(2 / 5)
    sizes, colours = (1 - jensenshannon([1 / k] * k, [1] + [0] * (k - 1), base=2) ** 2 for k in (2, 3))
    assert scores["coverage"] == pytest.approx((3 * sizes + 2 * colours) / 5)  # sizes of 3 colours, colours of 2 sizes
