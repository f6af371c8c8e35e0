"""Clusters against labels: formulas, brute force, and what no score depends on."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from pyro_models.data import load
from pyro_models.metrics.classification import agreement
from pyro_models.metrics.clusters import (
    as_labels,
    chosen_mixture,
    contingency,
    fitted_mixture,
    gaussian_mixture,
    log_joint,
    matching,
    merged,
    mixture_posterior,
    needs_more_components,
    score,
    spectral_posterior,
    used,
)
from pyro_models.recipes.discrete import UNITS

N = 1000


def noisy(clusters, labels, agreement=0.6, n=N):
    """Clusters that follow labels more or less, and these."""
    truth = torch.randint(0, labels, (n,))
    follows = torch.rand(n) < agreement
    return torch.where(follows, truth % clusters, torch.randint(0, clusters, (n,))), truth


def brute_force_accuracy(inferred, labels, clusters):
    """The share of agreement under the best one-to-one map of clusters to labels, by trying all."""
    width = max(clusters, int(labels.max()) + 1)
    return max((torch.tensor(way)[inferred] == labels).double().mean().item() for way in permutations(range(width)))


@pytest.mark.parametrize("agreement", [0.0, 0.2, 0.6, 1.0])
def test_accuracy_is_that_of_the_best_permutation(agreement):
    inferred, labels = noisy(4, 4, agreement)
    assert score(inferred, labels, 4)["accuracy"] == pytest.approx(brute_force_accuracy(inferred, labels, 4), abs=1e-12)


@pytest.mark.parametrize(("clusters", "labels"), [(6, 3), (5, 4), (3, 6), (4, 5), (1, 3), (3, 1)])
def test_more_clusters_than_labels_and_fewer_are_matched_as_far_as_they_go(clusters, labels):
    inferred, truth = noisy(clusters, labels)
    scores = score(inferred, truth, clusters)
    assert scores["accuracy"] == pytest.approx(brute_force_accuracy(inferred, truth, clusters), abs=1e-12)
    assert scores["accuracy"] <= scores["purity"] <= 1
    pairs = matching(contingency(inferred, truth, clusters))
    assert len(pairs) == min(clusters, labels)
    assert len({cluster for cluster, _ in pairs}) == len({label for _, label in pairs}) == len(pairs)
    assert [label for _, label in pairs] == sorted(label for _, label in pairs)


def test_with_a_pure_split_of_each_label_purity_is_1_and_accuracy_counts_one_cluster_of_each():
    labels = torch.arange(N) % 2
    inferred = labels * 2 + (torch.arange(N) // 2 % 4 == 0)
    scores = score(inferred, labels, 4)
    assert scores["purity"] == 1.0
    assert scores["accuracy"] == 0.75


@pytest.mark.parametrize("way", list(permutations(range(3))))
def test_no_score_depends_on_the_order_of_clusters(way):
    inferred, labels = noisy(3, 4)
    assert score(torch.tensor(way)[inferred], labels, 3) == pytest.approx(score(inferred, labels, 3), abs=1e-12)


def test_no_score_depends_on_the_order_of_labels_or_of_data():
    inferred, labels = noisy(4, 4)
    expected = pytest.approx(score(inferred, labels, 4), abs=1e-12)
    assert score(inferred, torch.tensor([2, 0, 3, 1])[labels], 4) == expected
    order = torch.randperm(N)
    assert score(inferred[order], labels[order], 4) == expected


def test_supervised_clusters_are_compared_as_they_are():
    inferred, labels = noisy(4, 4)
    moved = (inferred + 1) % 4
    for guess in (inferred, moved):
        assert score(guess, labels, 4, supervised=True)["accuracy"] == pytest.approx((guess == labels).double().mean())
    assert score(moved, labels, 4)["accuracy"] > 2 * score(moved, labels, 4, supervised=True)["accuracy"]
    for name in ("purity", "nmi", "ari"):
        assert score(moved, labels, 4, supervised=True)[name] == score(moved, labels, 4)[name]


@pytest.mark.parametrize(("clusters", "labels"), [(3, 5), (5, 3)])
def test_supervised_clusters_without_a_label_of_their_own_never_agree(clusters, labels):
    inferred, truth = noisy(clusters, labels)
    assert score(inferred, truth, clusters, supervised=True)["accuracy"] == pytest.approx(
        (inferred == truth).double().mean()
    )


def test_perfect_clusters_get_1_throughout():
    labels = torch.randint(0, 4, (N,))
    assert score(torch.tensor([2, 3, 1, 0])[labels], labels, 4) == {
        "accuracy": 1.0,
        "f1": 1.0,
        "purity": 1.0,
        "nmi": pytest.approx(1.0),
        "ari": pytest.approx(1.0),
        "clusters_used": 4.0,
    }


def test_random_clusters_get_about_chance():
    inferred, labels = noisy(4, 4, agreement=0.0, n=20_000)
    scores = score(inferred, labels, 4)
    assert scores["accuracy"] == pytest.approx(0.25, abs=0.02)
    assert scores["purity"] == pytest.approx(0.25, abs=0.02)
    assert scores["nmi"] == pytest.approx(0.0, abs=0.002)
    assert scores["ari"] == pytest.approx(0.0, abs=0.002)


def test_one_cluster_for_all_gets_the_commonest_label():
    labels = torch.tensor([0] * 500 + [1] * 300 + [2] * 200)
    assert score(torch.full((N,), 2), labels, 3) == {
        "accuracy": 0.5,
        "f1": pytest.approx(2 / 3 / 3),
        "purity": 0.5,
        "nmi": pytest.approx(0.0, abs=1e-12),
        "ari": pytest.approx(0.0, abs=1e-12),
        "clusters_used": 1.0,
    }


def test_nmi_and_ari_are_their_formulas():
    inferred, labels = noisy(3, 4)
    counts = contingency(inferred, labels, 3).double()
    p = counts / N
    a, b = p.sum(1), p.sum(0)
    information = torch.xlogy(p, p / (a[:, None] * b)).sum()
    entropies = [-torch.xlogy(q, q).sum() for q in (a, b)]
    choose = [(n * (n - 1) / 2).sum() for n in (counts, counts.sum(1), counts.sum(0))]
    chance = choose[1] * choose[2] / math.comb(N, 2)
    scores = score(inferred, labels, 3)
    assert scores["nmi"] == pytest.approx((2 * information / sum(entropies)).item())
    assert scores["ari"] == pytest.approx(((choose[0] - chance) / ((choose[1] + choose[2]) / 2 - chance)).item())


def test_contingency_counts_each_datum_once():
    inferred, labels = noisy(3, 5)
    counts = contingency(inferred, labels, 3)
    assert counts.shape == (3, 5)
    for cluster in range(3):
        for label in range(5):
            assert counts[cluster, label] == ((inferred == cluster) & (labels == label)).sum()


def test_a_cluster_counts_as_used_from_a_tenth_of_an_even_share():
    inferred = torch.tensor([0] * 10 + [1] * 9 + [2] * (400 - 19))  # an even share is 100
    assert used(inferred, 4).tolist() == [True, False, True, False]
    assert score(inferred, None, 4) == {"clusters_used": 2.0}


def test_without_labels_only_the_clusters_in_use_are_counted():
    inferred, labels = noisy(4, 4)
    assert score(inferred, None, 4) == {"clusters_used": 4.0}
    assert set(score(inferred, labels, 4)) == set(UNITS)


def mixture_of_blobs(seed):
    blobs = load("blobs")
    return gaussian_mixture(blobs.train.x, blobs.test.x, blobs.test.labels, 3, seed=seed)


@pytest.mark.parametrize("seed", [0, 2**63])
def test_a_mixture_of_gaussians_finds_the_blobs(seed):
    scores = mixture_of_blobs(seed)
    assert set(scores) == {*UNITS, "log_likelihood"}
    assert [scores[name] for name in UNITS] == [1.0, 1.0, 1.0, pytest.approx(1.0), pytest.approx(1.0), 3.0]


def test_the_log_likelihood_of_the_mixture_is_near_that_of_the_true_mixture():
    """Each blob is a round normal of deviation 0.8, seen through the scale of the training rows."""
    dataset = load("blobs")
    spread = (
        torch.stack([dataset.train.x[dataset.train.labels == cluster].double().std(0) for cluster in range(3)])
        .log()
        .mean(0)
    )
    expected = -math.log(3) - math.log(2 * math.pi) - 1 - spread.sum().item()
    assert mixture_of_blobs(0)["log_likelihood"] == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize(("clusters", "labels"), [(4, 4), (6, 3), (3, 6), (1, 3)])
def test_accuracy_and_f1_are_those_of_the_clusters_as_labels(clusters, labels):
    inferred, truth = noisy(clusters, labels)
    predicted = as_labels(inferred, contingency(inferred, truth, clusters))
    for scores, expected in (
        (score(inferred, truth, clusters), agreement(predicted, truth)),
        (score(inferred, truth, clusters, supervised=True), agreement(inferred, truth)),
    ):
        assert {name: scores[name] for name in expected} == expected


def test_clusters_become_the_labels_that_they_match_and_the_others_none():
    counts = torch.tensor([[0, 9], [1, 0], [5, 2]])
    assert as_labels(torch.tensor([0, 1, 2, 1, 0]), counts).tolist() == [1, -1, 0, -1, 1]


def test_f1_of_matched_clusters_is_that_of_the_labels_they_match():
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    inferred = torch.tensor([3, 3, 0, 1, 1, 1])  # cluster 0 matches no label
    scores = score(inferred, labels, 4)
    assert scores["accuracy"] == pytest.approx(5 / 6)
    assert scores["f1"] == pytest.approx((4 / 5 + 1) / 2)


def test_the_posterior_of_a_mixture_is_scikit_learns():
    rows = torch.cat([torch.randn(60, 3) @ torch.randn(3, 3) + shift for shift in (-4.0, 0.0, 5.0)])
    mixture = chosen_mixture(rows, 3, 1)
    assert mixture.bic(rows.numpy()) <= fitted_mixture(rows, 3, 1).bic(rows.numpy())
    expected = torch.from_numpy(mixture.predict_proba(rows.numpy()))
    torch.testing.assert_close(mixture_posterior(rows, 3, 1)(rows).exp(), expected)


@pytest.mark.parametrize("covariance", ["full", "tied", "diag"])
def test_the_joint_density_is_scikit_learns_whatever_the_covariances(covariance):
    rows = torch.cat([torch.randn(60, 3) @ torch.randn(3, 3) + shift for shift in (-4.0, 0.0, 5.0)])
    mixture = fitted_mixture(rows, 3, 1, covariance)
    torch.testing.assert_close(
        log_joint(mixture, rows).logsumexp(-1), torch.from_numpy(mixture.score_samples(rows.numpy()))
    )


def test_few_incomplete_rows_of_wine_are_still_grouped():
    """Full covariances, of which some seeds would fit a few rows each, have the larger BIC there."""
    dataset = load("wine")
    rows = dataset.train.x.double()
    torch.manual_seed(4)
    rows = rows.masked_fill(torch.rand_like(rows) < 0.2, torch.nan)
    inferred = mixture_posterior(rows, 3, 1)(rows).argmax(-1)
    assert score(inferred, dataset.train.labels, 3)["accuracy"] > 0.9


def test_data_whose_label_is_not_known_do_not_score():
    inferred, labels = noisy(3, 4)
    hidden = torch.arange(len(labels)) % 3 == 0
    part = labels.masked_fill(hidden, -1)
    ours, expected = score(inferred, part, 3), score(inferred[~hidden], labels[~hidden], 3)
    assert {k: v for k, v in ours.items() if k != "clusters_used"} == pytest.approx(
        {k: v for k, v in expected.items() if k != "clusters_used"}
    )
    assert set(score(inferred, torch.full_like(labels, -1), 3)) == {"clusters_used"}


@pytest.mark.parametrize(
    ("name", "clusters", "bent"), [("blobs", 3, False), ("moons", 2, True), ("pinwheel", 5, True), ("iris", 3, False)]
)
def test_bent_groups_need_more_components_than_there_are_groups(name, clusters, bent):
    assert needs_more_components(load(name).train.x[:600], clusters) == bent


def test_bent_groups_are_clusters_of_merged_components():
    train = load("moons").train[:600]
    rows, labels = train.x.double(), train.labels
    ellipses = torch.from_numpy(fitted_mixture(rows, 2).predict(rows.numpy()))
    assert score(ellipses, labels, 2)["ari"] < 0.7
    assert score(mixture_posterior(rows, 2)(rows).argmax(-1), labels, 2)["ari"] > 0.98


def test_spectral_clusters_follow_bent_groups_and_p_is_the_share_of_ten_neighbours_and_one_more():
    train = load("moons").train
    rows, labels = train.x.double()[:900], train.labels[:900]
    p = spectral_posterior(rows, 2)(rows).exp()
    assert score(p.argmax(-1), labels, 2)["accuracy"] == 1.0
    torch.testing.assert_close(p.sum(-1), torch.ones(900))
    far = torch.cat([rows[labels == 0], rows[labels == 1] + 100.0])  # no row has a neighbour in the other group
    posterior = spectral_posterior(far, 2, seed=3)
    torch.testing.assert_close(posterior(far).exp().max(-1).values, torch.full((900,), 10.5 / 11))
    few = posterior(far.float())
    assert few.dtype == torch.float32
    torch.testing.assert_close(few.double(), posterior(far), rtol=0, atol=1e-6)


def test_a_few_rows_far_from_all_others_do_not_take_the_cluster_of_a_large_group():
    """Two eigenvectors go to the rows far away: of as many as clusters there would be none for Normals that touch."""
    labels = torch.arange(900) % 3
    rows = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])[labels] + torch.from_numpy(
        np.random.default_rng(0).normal(size=(900, 2))
    )
    found = spectral_posterior(torch.cat([rows, rows[:11] + 50.0, rows[:11] - 50.0]), 3)(rows).argmax(-1)
    assert score(found, labels, 3)["accuracy"] > 0.97


def test_components_of_one_group_are_merged_and_those_of_others_are_not():
    """Components 0 and 3 share rows, as 1 and 4 do; 2 has its own."""
    posterior = torch.tensor([[0.5, 0, 0, 0.5, 0]] * 3 + [[0, 0.7, 0, 0, 0.3]] * 3 + [[0, 0, 1.0, 0, 0]] * 3)
    assert sorted(map(sorted, merged(posterior, 3))) == [[0, 3], [1, 4], [2]]


def test_the_components_of_a_row_with_missing_values_are_those_of_its_marginal():
    from sklearn.mixture import GaussianMixture

    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(60, 3)) @ rng.normal(size=(3, 3)) + 4 * k for k in range(2)])
    mixture = GaussianMixture(2, random_state=0).fit(rows)
    holed = torch.tensor(rows[:5]).masked_fill(torch.tensor([False, True, False]), torch.nan)
    kept = [0, 2]
    marginal = torch.distributions.MultivariateNormal(
        torch.tensor(mixture.means_[:, kept]), torch.tensor(mixture.covariances_[:, kept][:, :, kept])
    )
    expected = torch.tensor(mixture.weights_).log() + marginal.log_prob(torch.tensor(rows[:5, None, kept]))
    torch.testing.assert_close(log_joint(mixture, holed), expected)
    whole = log_joint(mixture, torch.tensor(rows)).logsumexp(-1).numpy()
    np.testing.assert_allclose(whole, mixture.score_samples(rows))
