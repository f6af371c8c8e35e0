"""Predicted classes against the labels: counted by hand."""

import pytest
import torch

from pyro_models.metrics.classification import agreement, per_class, predict
from pyro_models.metrics.clusters import contingency
from tests.metrics.test_clusters import noisy


class Nearest(torch.nn.Module):
    """q(y | x) that is surest of the nearest of some points."""

    def __init__(self):
        super().__init__()
        self.points = torch.nn.Parameter(torch.randn(5, 2))
        self.noise = torch.nn.Dropout(0.9)

    def classify(self, x):
        return torch.distributions.OneHotCategorical(logits=-torch.cdist(self.noise(x), self.points))

    forward = classify


@pytest.mark.parametrize("size", [1, 10, 23, 1000])
def test_the_predicted_class_is_the_likeliest_whatever_the_batches(size):
    guide, x = Nearest(), torch.randn(23, 2)
    expected = torch.cdist(x, guide.points).argmin(-1)
    for classify in (guide.classify, guide):
        assert torch.equal(predict(classify, x.split(size)), expected)
    assert guide.training


def test_classes_of_dynamic_pixels_repeat_themselves_and_leave_the_noise_alone():
    guide, state = Nearest(), torch.get_rng_state()
    first = predict(guide.classify, (torch.randn(50, 2) for _ in range(3)))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(predict(guide.classify, (torch.randn(50, 2) for _ in range(3))), first)


def test_precision_recall_and_f1_are_counted_by_hand():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    inferred = torch.tensor([0, 0, 1, 1, 1, 1, 0])
    scores = per_class(inferred, labels, 4)
    assert scores["confusion"] == [[2, 2, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert scores["precision"] == pytest.approx([2 / 3, 1 / 2, 0, 0])
    assert scores["recall"] == pytest.approx([1 / 2, 1, 0, 0])
    assert scores["f1"] == pytest.approx([4 / 7, 2 / 3, 0, 0])
    assert scores["support"] == [4, 2, 1, 0]
    assert agreement(inferred, labels) == pytest.approx({"accuracy": 4 / 7, "f1": (4 / 7 + 2 / 3) / 3})


def counted(inferred, labels, label):
    """How many data were given a label rightly and wrongly, and how many of the label were missed."""
    right = ((inferred == label) & (labels == label)).sum().item()
    return right, (inferred == label).sum().item() - right, (labels == label).sum().item() - right


def f1_by_hand(inferred, labels):
    """The mean of 2 right / (2 right + wrong + missed) over the labels that occur."""
    each = [counted(inferred, labels, label) for label in labels.unique().tolist()]
    return sum(2 * right / (2 * right + wrong + missed) for right, wrong, missed in each) / len(each)


@pytest.mark.parametrize(("classes", "labels"), [(4, 4), (6, 3), (3, 6), (1, 3)])
def test_accuracy_and_f1_are_counted_by_hand(classes, labels):
    inferred, truth = noisy(classes, labels)
    assert agreement(inferred, truth) == {
        "accuracy": pytest.approx((inferred == truth).double().mean()),
        "f1": pytest.approx(f1_by_hand(inferred, truth)),
    }


def test_labels_that_do_not_occur_do_not_lower_f1():
    """As where a small split holds no datum of a class: labels 1 and 3 alone, and one datum wrong."""
    labels = torch.tensor([1, 1, 3, 3])
    assert agreement(torch.tensor([1, 1, 3, 0]), labels)["f1"] == pytest.approx((1 + 2 / 3) / 2)


def test_the_scores_of_the_classes_are_those_of_the_whole():
    inferred, labels = noisy(6, 6)
    each, whole = per_class(inferred, labels, 6), agreement(inferred, labels)
    for label in range(6):
        right, wrong, missed = counted(inferred, labels, label)
        assert each["precision"][label] == pytest.approx(right / (right + wrong))
        assert each["recall"][label] == pytest.approx(right / (right + missed))
        assert each["support"][label] == sum(each["confusion"][label]) == right + missed
    assert torch.equal(torch.tensor(each["confusion"]).T, contingency(inferred, labels, 6))
    assert sum(each["f1"]) / 6 == pytest.approx(whole["f1"])
    weighted = sum(r * n for r, n in zip(each["recall"], each["support"], strict=True)) / len(labels)
    assert weighted == pytest.approx(whole["accuracy"])
