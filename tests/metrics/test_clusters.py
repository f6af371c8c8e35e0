import math
from itertools import permutations

import pytest
import torch

from pyro_models.data import Split, load, to_float
from pyro_models.metrics.clusters import (
    SCORES,
    agreement,
    confusion,
    gaussian_mixture,
    infer_kinds,
    matching,
    named_after,
    per_class,
    score,
    used,
)

N = 1000


def noisy(kinds, labels, agreement=0.6, n=N):
    """Labels, and kinds that follow them more or less."""
    truth = torch.randint(0, labels, (n,))
    follows = torch.rand(n) < agreement
    return torch.where(follows, truth % kinds, torch.randint(0, kinds, (n,))), truth


def brute_force_accuracy(inferred, labels, kinds):
    """The share of agreement under the best one-to-one map of kinds to labels, by trying all."""
    width = max(kinds, int(labels.max()) + 1)
    return max((torch.tensor(way)[inferred] == labels).double().mean().item() for way in permutations(range(width)))


@pytest.mark.parametrize("agreement", [0.0, 0.2, 0.6, 1.0])
def test_accuracy_is_that_of_the_best_permutation(agreement):
    inferred, labels = noisy(4, 4, agreement)
    assert score(inferred, labels, 4)["accuracy"] == pytest.approx(brute_force_accuracy(inferred, labels, 4), abs=1e-12)


@pytest.mark.parametrize(("kinds", "labels"), [(6, 3), (5, 4), (3, 6), (4, 5), (1, 3), (3, 1)])
def test_more_kinds_than_labels_and_fewer_are_matched_as_far_as_they_go(kinds, labels):
    inferred, truth = noisy(kinds, labels)
    figures = score(inferred, truth, kinds)
    assert figures["accuracy"] == pytest.approx(brute_force_accuracy(inferred, truth, kinds), abs=1e-12)
    assert figures["accuracy"] <= figures["purity"] <= 1
    pairs = matching(confusion(inferred, truth, kinds))
    assert len(pairs) == min(kinds, labels)
    assert len({kind for kind, _ in pairs}) == len({label for _, label in pairs}) == len(pairs)
    assert [label for _, label in pairs] == sorted(label for _, label in pairs)


def test_with_a_pure_split_of_each_label_purity_is_1_and_accuracy_counts_one_kind_of_each():
    labels = torch.arange(N) % 2
    inferred = labels * 2 + (torch.arange(N) // 2 % 4 == 0)
    figures = score(inferred, labels, 4)
    assert figures["purity"] == 1.0
    assert figures["accuracy"] == 0.75


@pytest.mark.parametrize("way", list(permutations(range(3))))
def test_no_score_depends_on_the_order_of_kinds(way):
    inferred, labels = noisy(3, 4)
    assert score(torch.tensor(way)[inferred], labels, 3) == pytest.approx(score(inferred, labels, 3), abs=1e-12)


def test_no_score_depends_on_the_order_of_labels_or_of_data():
    inferred, labels = noisy(4, 4)
    expected = pytest.approx(score(inferred, labels, 4), abs=1e-12)
    assert score(inferred, torch.tensor([2, 0, 3, 1])[labels], 4) == expected
    order = torch.randperm(N)
    assert score(inferred[order], labels[order], 4) == expected


def test_kinds_that_were_named_are_compared_as_they_are():
    inferred, labels = noisy(4, 4)
    moved = (inferred + 1) % 4
    for guess in (inferred, moved):
        assert score(guess, labels, 4, named=True)["accuracy"] == pytest.approx((guess == labels).double().mean())
    assert score(moved, labels, 4)["accuracy"] > 2 * score(moved, labels, 4, named=True)["accuracy"]
    for name in ("purity", "nmi", "ari"):
        assert score(moved, labels, 4, named=True)[name] == score(moved, labels, 4)[name]


@pytest.mark.parametrize(("kinds", "labels"), [(3, 5), (5, 3)])
def test_named_kinds_without_a_label_of_their_own_never_agree(kinds, labels):
    inferred, truth = noisy(kinds, labels)
    assert score(inferred, truth, kinds, named=True)["accuracy"] == pytest.approx((inferred == truth).double().mean())


def test_perfect_kinds_get_1_throughout():
    labels = torch.randint(0, 4, (N,))
    assert score(torch.tensor([2, 3, 1, 0])[labels], labels, 4) == {
        "accuracy": 1.0,
        "f1": 1.0,
        "purity": 1.0,
        "nmi": pytest.approx(1.0),
        "ari": pytest.approx(1.0),
        "kinds_used": 4.0,
    }


def test_random_kinds_get_about_chance():
    inferred, labels = noisy(4, 4, agreement=0.0, n=20_000)
    figures = score(inferred, labels, 4)
    assert figures["accuracy"] == pytest.approx(0.25, abs=0.02)
    assert figures["purity"] == pytest.approx(0.25, abs=0.02)
    assert figures["nmi"] == pytest.approx(0.0, abs=0.002)
    assert figures["ari"] == pytest.approx(0.0, abs=0.002)


def test_one_kind_for_all_gets_the_commonest_label():
    labels = torch.tensor([0] * 500 + [1] * 300 + [2] * 200)
    assert score(torch.full((N,), 2), labels, 3) == {
        "accuracy": 0.5,
        "f1": pytest.approx(2 / 3 / 3),
        "purity": 0.5,
        "nmi": pytest.approx(0.0, abs=1e-12),
        "ari": pytest.approx(0.0, abs=1e-12),
        "kinds_used": 1.0,
    }


def test_nmi_and_ari_are_their_formulas():
    inferred, labels = noisy(3, 4)
    counts = confusion(inferred, labels, 3).double()
    p = counts / N
    a, b = p.sum(1), p.sum(0)
    information = torch.xlogy(p, p / (a[:, None] * b)).sum()
    entropies = [-torch.xlogy(q, q).sum() for q in (a, b)]
    choose = [(n * (n - 1) / 2).sum() for n in (counts, counts.sum(1), counts.sum(0))]
    chance = choose[1] * choose[2] / math.comb(N, 2)
    figures = score(inferred, labels, 3)
    assert figures["nmi"] == pytest.approx((2 * information / sum(entropies)).item())
    assert figures["ari"] == pytest.approx(((choose[0] - chance) / ((choose[1] + choose[2]) / 2 - chance)).item())


def test_confusion_counts_each_datum_once():
    inferred, labels = noisy(3, 5)
    counts = confusion(inferred, labels, 3)
    assert counts.shape == (3, 5)
    for kind in range(3):
        for label in range(5):
            assert counts[kind, label] == ((inferred == kind) & (labels == label)).sum()


def test_a_kind_counts_as_used_from_a_tenth_of_an_even_share():
    inferred = torch.tensor([0] * 10 + [1] * 9 + [2] * (400 - 19))  # an even share is 100
    assert used(inferred, 4).tolist() == [True, False, True, False]
    assert score(inferred, None, 4) == {"kinds_used": 2.0}


def test_without_labels_only_the_kinds_in_use_are_counted():
    inferred, labels = noisy(4, 4)
    assert score(inferred, None, 4) == {"kinds_used": 4.0}
    assert set(score(inferred, labels, 4)) == set(SCORES)


class Nearest(torch.nn.Module):
    """q(y | x) that is surest of the nearest of some points."""

    def __init__(self):
        super().__init__()
        self.points = torch.nn.Parameter(torch.randn(5, 2))
        self.noise = torch.nn.Dropout(0.9)

    def classify(self, x):
        return torch.distributions.OneHotCategorical(logits=-torch.cdist(self.noise(x), self.points))


@pytest.mark.parametrize("batch_size", [1, 10, 23, 1000])
def test_the_inferred_kind_is_the_likeliest_whatever_the_batches(batch_size):
    guide, split = Nearest(), Split(torch.randn(23, 2))
    expected = torch.cdist(to_float(split.x, "grey"), guide.points).argmin(-1)
    assert torch.equal(infer_kinds(guide, split, "grey", batch_size=batch_size), expected)
    assert guide.training


@pytest.mark.parametrize("seed", [0, 2**63])
def test_a_mixture_of_gaussians_finds_the_blobs(seed):
    figures = gaussian_mixture(load("blobs"), 3, seed)
    assert set(figures) == {*SCORES, "log_likelihood"}
    assert [figures[name] for name in SCORES] == [1.0, 1.0, 1.0, pytest.approx(1.0), pytest.approx(1.0), 3.0]


def test_the_log_likelihood_of_the_mixture_is_near_that_of_the_story_of_the_blobs():
    """Each blob is a round normal of deviation 0.8, seen through the scale of the training rows."""
    dataset = load("blobs")
    spread = (
        torch.stack([dataset.train.x[dataset.train.labels == kind].double().std(0) for kind in range(3)]).log().mean(0)
    )
    expected = -math.log(3) - math.log(2 * math.pi) - 1 - spread.sum().item()
    assert gaussian_mixture(dataset, 3, 0)["log_likelihood"] == pytest.approx(expected, abs=0.15)


def test_precision_recall_and_f1_are_counted_by_hand():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    inferred = torch.tensor([0, 0, 1, 1, 1, 1, 0])
    found = per_class(inferred, labels, 4)
    assert found["confusion"] == [[2, 2, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert found["precision"] == pytest.approx([2 / 3, 1 / 2, 0, 0])
    assert found["recall"] == pytest.approx([1 / 2, 1, 0, 0])
    assert found["f1"] == pytest.approx([4 / 7, 2 / 3, 0, 0])
    assert found["support"] == [4, 2, 1, 0]
    assert agreement(inferred, labels) == pytest.approx({"accuracy": 4 / 7, "f1": (4 / 7 + 2 / 3) / 3})


def counted(inferred, labels, label):
    """How often a label was inferred rightly, and wrongly, and was missed."""
    right = ((inferred == label) & (labels == label)).sum().item()
    return right, (inferred == label).sum().item() - right, (labels == label).sum().item() - right


def f1_by_hand(inferred, labels):
    """The mean of 2 right / (2 right + wrong + missed) over the labels that occur."""
    each = [counted(inferred, labels, label) for label in labels.unique().tolist()]
    return sum(2 * right / (2 * right + wrong + missed) for right, wrong, missed in each) / len(each)


@pytest.mark.parametrize(("kinds", "labels"), [(4, 4), (6, 3), (3, 6), (1, 3)])
def test_accuracy_and_f1_are_counted_on_named_kinds(kinds, labels):
    inferred, truth = noisy(kinds, labels)
    assert agreement(inferred, truth) == {
        "accuracy": pytest.approx((inferred == truth).double().mean()),
        "f1": pytest.approx(f1_by_hand(inferred, truth)),
    }
    assert score(inferred, truth, kinds, named=True)["f1"] == pytest.approx(f1_by_hand(inferred, truth))
    names = named_after(inferred, confusion(inferred, truth, kinds))
    figures = score(inferred, truth, kinds)
    assert figures["accuracy"] == pytest.approx((names == truth).double().mean())
    assert figures["f1"] == pytest.approx(f1_by_hand(names, truth))


def test_kinds_are_named_after_the_labels_that_they_match_and_the_others_after_none():
    counts = torch.tensor([[0, 9], [1, 0], [5, 2]])
    assert named_after(torch.tensor([0, 1, 2, 1, 0]), counts).tolist() == [1, -1, 0, -1, 1]


def test_labels_that_do_not_occur_do_not_lower_f1():
    """As where a small split holds no datum of a class: labels 1 and 3 alone, and one datum wrong."""
    labels = torch.tensor([1, 1, 3, 3])
    assert agreement(torch.tensor([1, 1, 3, 0]), labels)["f1"] == pytest.approx((1 + 2 / 3) / 2)


def test_the_figures_of_the_classes_are_those_of_the_whole():
    inferred, labels = noisy(6, 6)
    each, whole = per_class(inferred, labels, 6), agreement(inferred, labels)
    for label in range(6):
        right, wrong, missed = counted(inferred, labels, label)
        assert each["precision"][label] == pytest.approx(right / (right + wrong))
        assert each["recall"][label] == pytest.approx(right / (right + missed))
        assert each["support"][label] == sum(each["confusion"][label]) == right + missed
    assert torch.equal(torch.tensor(each["confusion"]).T, confusion(inferred, labels, 6))
    assert sum(each["f1"]) / 6 == pytest.approx(whole["f1"])
    weighted = sum(r * n for r, n in zip(each["recall"], each["support"], strict=True)) / N
    assert weighted == pytest.approx(whole["accuracy"])


def test_f1_of_matched_kinds_is_that_of_the_labels_they_match():
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    kinds = torch.tensor([3, 3, 0, 1, 1, 1])  # kind 0 matches no label
    found = score(kinds, labels, 4)
    assert found["accuracy"] == pytest.approx(5 / 6)
    assert found["f1"] == pytest.approx((4 / 5 + 1) / 2)
