"""Terms of q(y | x) beside the bound, against closed forms and against the bound itself."""

import copy
import math
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from pyro_models.guides.classifier import ClassifierGuide
from pyro_models.guides.gmvae import GMVAEGuide
from torch.distributions import Categorical, kl_divergence

from pyro_models.classifier import Classifier
from pyro_models.data import Batches, Split
from pyro_models.objectives import (
    consistency,
    discriminative,
    dreg,
    entropy,
    enum,
    graph,
    imitation,
    iwae,
    jitter,
    marginal_kl,
    mean_field,
    regularised,
    relaxed,
    renyi,
    rws,
    trace,
    vat,
    with_labels,
)
from pyro_models.objectives.estimators import sampled_kl
from pyro_models.training.loop import NonFiniteTerm, fit, parameters
from tests.linear_mixture import COLUMNS, KINDS, SCALE, evidence, gradient, joint_of_kinds, linear_mixture


@pytest.fixture
def pair():
    return linear_mixture()


@pytest.fixture
def x(pair):
    return pair[0](batch=6).detach()


@pytest.fixture
def log_q():
    """log q(y | x) of nine data and five kinds."""
    return (3 * torch.randn(9, 5)).log_softmax(-1)


UNREAD = torch.empty(0)


def test_marginal_kl_is_measured_against_the_storys_prior_and_leaves_it_alone(log_q):
    log_p = torch.randn(5).log_softmax(-1).requires_grad_()
    expected = kl_divergence(Categorical(probs=log_q.exp().mean(0)), Categorical(logits=log_p))
    torch.testing.assert_close(marginal_kl(UNREAD, UNREAD, log_q, log_p), expected)
    torch.testing.assert_close(
        marginal_kl(UNREAD, UNREAD, log_q, torch.full((5,), 0.2).log()), marginal_kl(UNREAD, UNREAD, log_q)
    )


@pytest.mark.parametrize("estimator", [trace, mean_field, enum, graph, iwae])
def test_the_terms_get_the_weights_that_the_story_has(pair, x, estimator):
    """Of a mixture whose weights are 0.8, 0.15 and 0.05: the term is the divergence from these."""
    model, guide = pair
    weights = torch.tensor([0.8, 0.15, 0.05])

    class Weighted(type(model)):
        @property
        def logits(self):
            return weights.log()

    model.__class__ = Weighted
    bound = partial(estimator, particles=3) if estimator is iwae else estimator
    if estimator in (trace, mean_field, iwae):
        bound = relaxed(bound, 0.5)
    terms = regularised(bound, {"marginal_kl": (2.0, marginal_kl)}, guide.classify)(model, guide, x=x)
    expected = kl_divergence(Categorical(probs=guide.classify(x).probs.mean(0)), Categorical(probs=weights))
    torch.testing.assert_close(terms["marginal_kl"], expected)


def test_imitation_is_the_mean_divergence_from_the_teacher(log_q):
    log_r = torch.randn(9, 5).log_softmax(-1)
    expected = kl_divergence(Categorical(logits=log_r), Categorical(logits=log_q)).mean()
    torch.testing.assert_close(imitation(UNREAD, UNREAD, log_q, teacher=lambda x: log_r), expected)


def test_marginal_kl_and_entropy_are_torchs_closed_forms(log_q):
    q = Categorical(logits=log_q)
    marginal = Categorical(probs=q.probs.mean(0))
    uniform = Categorical(logits=torch.zeros(5))
    torch.testing.assert_close(marginal_kl(UNREAD, UNREAD, log_q), kl_divergence(marginal, uniform))
    torch.testing.assert_close(entropy(UNREAD, UNREAD, log_q), q.entropy().mean())


def test_entropy_and_marginal_kl_are_log_k_less_the_mutual_information(log_q):
    q = log_q.exp()
    information = (q * (log_q - q.mean(0).log())).sum(-1).mean()
    torch.testing.assert_close(
        entropy(UNREAD, UNREAD, log_q) + marginal_kl(UNREAD, UNREAD, log_q), math.log(5) - information
    )


def test_the_extremes_of_both():
    sure = torch.eye(4).repeat(3, 1).clamp(min=1e-300).log()
    unsure = torch.full((12, 4), 0.25).log()
    zero, most = torch.tensor(0.0), torch.tensor(math.log(4))
    for value, expected in (
        (marginal_kl(UNREAD, UNREAD, sure), zero),
        (entropy(UNREAD, UNREAD, sure), zero),
        (marginal_kl(UNREAD, UNREAD, unsure), zero),
        (entropy(UNREAD, UNREAD, unsure), most),
        (marginal_kl(UNREAD, UNREAD, sure[:1].expand(12, 4)), most),
        (entropy(UNREAD, UNREAD, sure[:1].expand(12, 4)), zero),
    ):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("term", [marginal_kl, entropy])
def test_a_kind_whose_probability_underflows_leaves_value_and_gradient_finite(term):
    """All data are so sure that, in float32, the last kind's probability is an exact zero: KL = log(3 / 2)."""
    logits = torch.tensor([[0.0, 0.0, -200.0]] * 8, dtype=torch.float32, requires_grad=True)
    value = term(UNREAD, UNREAD, logits.log_softmax(-1))
    expected = {marginal_kl: math.log(3 / 2), entropy: math.log(2)}[term]
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float32))
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


class OneHot(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return dist.OneHotCategorical(logits=self.network(x))


def classifier(columns=COLUMNS):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(columns, KINDS))
    return network, OneHot(network)


def test_consistency_is_the_mean_divergence_from_the_moved_data():
    _, classify = classifier()
    x = torch.randn(7, COLUMNS)
    value = consistency(classify, x, classify(x).logits, jitter=lambda x: 2 * x + 1)
    q, moved = (Categorical(logits=classify(data).logits) for data in (x, 2 * x + 1))
    torch.testing.assert_close(value, kl_divergence(q, moved).mean())


@pytest.mark.parametrize("shape", [(7, 36), (7, 1, 6, 6)], ids=["rows", "images"])
def test_consistency_is_0_for_data_that_do_not_move_and_for_a_guess_that_is_constant(shape):
    network, classify = classifier(36)
    x = torch.rand(shape)
    still, moving = (partial(consistency, jitter=partial(jitter, amount=amount)) for amount in (0.0, 0.3))
    assert moving(classify, x, classify(x).logits) > 1e-4
    torch.testing.assert_close(still(classify, x, classify(x).logits), torch.tensor(0.0), rtol=0, atol=1e-12)
    torch.nn.init.zeros_(network[1].weight)
    torch.testing.assert_close(moving(classify, x, classify(x).logits), torch.tensor(0.0), rtol=0, atol=1e-12)


def test_no_gradient_flows_into_the_guess_that_consistency_keeps():
    network, classify = classifier()
    x = torch.randn(9, COLUMNS)
    first = torch.randn(9, KINDS).log_softmax(-1).requires_grad_()
    value = consistency(classify, x, first, jitter=lambda x: x + 1)
    into_first, into_second = torch.autograd.grad(value, [first, network[1].weight], allow_unused=True)
    assert into_first is None
    assert into_second.abs().max() > 0


@pytest.mark.parametrize("shape", [(5, 3), (5, 1, 8, 8), (5, 3, 28, 28), (5, 1, 7, 4)])
def test_jitter_of_amount_0_is_the_identity(shape):
    x = torch.rand(shape)
    torch.testing.assert_close(jitter(x, 0.0), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_jitter_keeps_shape_and_type_and_moves_each_datum_on_its_own(dtype):
    for x in (torch.rand(1, 4), torch.rand(1, 2, 8, 6)):
        same = x.to(dtype).expand(5, *x.shape[1:])
        moved = jitter(same, 0.2)
        assert moved.shape == same.shape
        assert moved.dtype == dtype
        assert all((moved[a] != moved[b]).any() for a in range(5) for b in range(a))


def test_rows_are_moved_by_noise_of_the_given_deviation():
    noise = jitter(torch.full((20_000, 3), 7.0), 0.3) - 7
    torch.testing.assert_close(noise.mean(0), torch.zeros(3), rtol=0, atol=0.012)
    torch.testing.assert_close(noise.std(0), torch.full((3,), 0.3), rtol=0, atol=0.008)


def test_images_are_moved_by_maps_of_the_given_deviation():
    """The image is its own coordinate, x beside y in half widths, so that the centre shows the map."""
    line = (torch.arange(9.0) - 4) / 4.5
    image = torch.stack([line.expand(9, 9), line[:, None].expand(9, 9)])
    moved = jitter(image.expand(20_000, 2, 9, 9), 0.06)
    shift = moved[:, :, 4, 4]
    across, down = ((moved[:, :, a, b] - shift) / line[5] for a, b in ((4, 5), (5, 4)))
    torch.testing.assert_close(shift.std(0), torch.full((2,), 0.02), rtol=0.05, atol=0)
    torch.testing.assert_close(shift.mean(0), torch.zeros(2), rtol=0, atol=0.001)
    for slope, mean in ((across, [1.0, 0.0]), (down, [0.0, 1.0])):
        torch.testing.assert_close(slope.mean(0), torch.tensor(mean), rtol=0, atol=0.003)
        torch.testing.assert_close(slope.std(0), torch.full((2,), 0.06), rtol=0.05, atol=0)


def all_terms(amount=0.2):
    return {
        "consistency": (3.0, partial(consistency, jitter=partial(jitter, amount=amount))),
        "marginal_kl": (5.0, marginal_kl),
        "entropy": (0.5, entropy),
    }


def test_without_weights_the_objective_is_the_very_one(pair):
    assert regularised(enum, {name: (0.0, term) for name, (_, term) in all_terms().items()}, pair[1].classify) is enum
    assert regularised(enum, {}, pair[1].classify) is enum


@pytest.mark.parametrize(
    "bound",
    [
        enum,
        partial(enum, particles=3),
        graph,
        partial(graph, particles=3),
        relaxed(trace, 0.5),
        relaxed(partial(trace, particles=3), 0.5),
        relaxed(mean_field, 0.5),
    ],
    ids=["enum", "enum 3", "graph", "graph 3", "relaxed", "relaxed 3", "relaxed mean-field"],
)
def test_the_loss_is_the_bounds_and_each_weighted_term_and_the_elbo_stays(pair, x, bound):
    model, guide = pair
    terms = all_terms()
    torch.manual_seed(4)
    plain = bound(model, guide, x=x)
    log_q = guide.classify(x).logits
    values = {name: term(guide.classify, x, log_q) for name, (_, term) in terms.items()}
    loss = plain["loss"] + sum(terms[name][0] * value for name, value in values.items())
    torch.manual_seed(4)
    whole = regularised(bound, terms, guide.classify)(model, guide, x=x)
    torch.testing.assert_close(whole["loss"], loss)
    torch.testing.assert_close(gradient(whole["loss"], *pair), gradient(loss, *pair))
    torch.testing.assert_close({name: whole[name] for name in plain if name != "loss"}, without_loss(plain))
    torch.testing.assert_close({name: whole[name] for name in values}, {n: v.detach() for n, v in values.items()})
    assert set(whole) == {*plain, *terms}
    assert [name for name, term in whole.items() if term.requires_grad] == ["loss"]


def without_loss(terms):
    return {name: term for name, term in terms.items() if name != "loss"}


WEIGHTED = {
    "rws": partial(rws, particles=4),
    "iwae": relaxed(partial(iwae, particles=4), 0.5),
    "dreg": relaxed(partial(dreg, particles=4), 0.5),
    "renyi": relaxed(partial(renyi, particles=4), 0.5),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_beside_a_weighted_bound_the_adversarial_term_is_added_and_the_bound_stays(pair, x, name):
    model, guide = pair
    torch.manual_seed(4)
    plain = WEIGHTED[name](model, guide, x=x)
    value = vat(guide.classify, x, guide.classify(x).logits, radius=0.3)
    torch.manual_seed(4)
    whole = regularised(WEIGHTED[name], {"vat": (3.0, partial(vat, radius=0.3))}, guide.classify)(model, guide, x=x)
    torch.testing.assert_close(without_loss(whole), without_loss(plain) | {"vat": value.detach()}, rtol=1e-9, atol=0)
    assert all(torch.equal(whole[term], plain[term]) for term in without_loss(plain))
    torch.testing.assert_close(whole["loss"], plain["loss"] + 3 * value)
    torch.testing.assert_close(gradient(whole["loss"], *pair), gradient(plain["loss"] + 3 * value, *pair))


class ExactCodes(GMVAEGuide):
    """A guide whose q(z | x, y) is p(z | x, y) itself, so that log p(x) - elbo is KL(q(y | x) || p(y | x)), no less."""

    def __init__(self, model, classifier):
        super().__init__(classifier, torch.nn.Identity())
        self.model = model

    def posterior(self, x, y):
        prior, decoder = self.model.prior(y).base_dist, self.model.decoder
        weights = prior.scale.square().reciprocal()
        precision = weights.diag_embed() + decoder.weight.T @ decoder.weight / SCALE**2
        seen = weights * prior.loc + (x - decoder.bias) @ decoder.weight / SCALE**2
        return dist.MultivariateNormal(
            torch.linalg.solve(precision, seen[..., None])[..., 0], precision_matrix=precision
        )


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 30.0])
def test_less_the_terms_the_bound_is_a_looser_bound(pair, x, sharpness):
    model, guide = pair[0], ExactCodes(pair[0], pair[1].classifier)
    guide.classifier[-1].weight.data *= sharpness
    terms = all_terms() | {"vat": (2.0, partial(vat, radius=0.7))}
    whole = regularised(partial(enum, divergence=sampled_kl), terms, guide.classify)(model, guide, x=x)
    q, p = guide.classify(x).logits, Categorical(logits=joint_of_kinds(model, x))
    elbo = (evidence(model, x) - kl_divergence(Categorical(logits=q), p)).mean()
    torch.testing.assert_close(whole["elbo"], elbo)
    assert -whole["loss"] < whole["elbo"] < evidence(model, x).mean()
    assert all(whole[name] > -1e-12 for name in terms)


def test_a_term_of_weight_0_is_left_out_and_not_computed(pair, x):
    def never(classify, x, log_q):
        raise AssertionError

    whole = regularised(enum, {"never": (0.0, never), "entropy": (1.0, entropy)}, pair[1].classify)(*pair, x=x)
    assert "never" not in whole
    assert "entropy" in whole


def test_the_guess_is_computed_once(pair, x):
    model, guide = pair
    objective = regularised(enum, {"marginal_kl": (1.0, marginal_kl), "entropy": (1.0, entropy)}, guide.classify)
    objective(model, guide, x=x)  # the first time, the pair is tried out
    calls = []
    guide.classifier.register_forward_hook(lambda *_: calls.append(1))
    objective(model, guide, x=x)
    assert len(calls) == 1


@pytest.fixture
def known(pair):
    """Four labelled data, other than the unlabelled ones, and their kinds."""
    return {"labelled_x": pair[0](batch=4).detach(), "labelled_y": torch.eye(KINDS)[torch.tensor([0, 2, 1, 2])]}


@pytest.mark.parametrize("bound", [enum, relaxed(trace, 0.5), relaxed(mean_field, 0.5), graph])
@pytest.mark.parametrize("terms", [False, True], ids=["plain", "with terms"])
def test_the_loss_with_labels_is_the_weighted_sum_of_its_parts(pair, x, known, bound, terms):
    model, guide = pair
    objective = regularised(bound, all_terms(), guide.classify) if terms else bound
    torch.manual_seed(4)
    unlabelled = objective(model, guide, x=x)
    seen = bound(model, guide, x=known["labelled_x"], y=known["labelled_y"])
    guess = guide.classifier(known["labelled_x"]).log_softmax(-1)
    cross_entropy = -guess[range(4), [0, 2, 1, 2]].mean()
    expected = unlabelled["loss"] + 0.3 * seen["loss"] + 20 * cross_entropy
    torch.manual_seed(4)
    both = with_labels(objective, bound, guide.classify, weight=20.0, share=0.3)
    found = both(model, guide, x=x, **known)
    torch.testing.assert_close(found["loss"], expected)
    torch.testing.assert_close(gradient(found["loss"], *pair), gradient(expected, *pair))
    assert without_loss(unlabelled).items() <= without_loss(found).items()
    torch.testing.assert_close(found["labelled_elbo"], seen["elbo"])
    torch.testing.assert_close(found["cross_entropy"], cross_entropy.detach())
    assert [name for name, term in found.items() if term.requires_grad] == ["loss"]
    assert set(known) == {"labelled_x", "labelled_y"}


@pytest.mark.parametrize("weight", [0.0, 20.0])
def test_labels_alone_are_their_bound_and_their_cross_entropy(pair, x, known, weight):
    model, guide = pair
    torch.manual_seed(4)
    seen = enum(model, guide, x=known["labelled_x"], y=known["labelled_y"])
    guess = guide.classifier(known["labelled_x"]).log_softmax(-1)
    expected = 0.3 * seen["loss"] - weight * guess[range(4), [0, 2, 1, 2]].mean()
    torch.manual_seed(4)
    found = with_labels(None, enum, guide.classify, weight=weight, share=0.3)(model, guide, x=x, **known)
    torch.testing.assert_close(found["loss"], expected)
    torch.testing.assert_close(gradient(found["loss"], *pair), gradient(expected, *pair))
    torch.testing.assert_close(found["elbo"], seen["elbo"])
    assert set(found) == {"loss", "elbo"} | ({"cross_entropy"} if weight else set())


def statistics(guide):
    return {name: buffer.clone() for name, buffer in guide.classifier.named_buffers()}


@pytest.mark.parametrize("others", [True, False])
@pytest.mark.parametrize("bound", [enum, relaxed(trace, 0.5), graph])
def test_batch_norm_runs_over_all_data_once_or_over_the_labelled_where_there_are_no_others(
    pair, x, known, bound, others
):
    model, guide = pair
    guide.classifier = torch.nn.Sequential(torch.nn.BatchNorm1d(COLUMNS), torch.nn.Linear(COLUMNS, KINDS))
    before = copy.deepcopy(guide)
    objective = regularised(bound, all_terms() | {"vat": (1.0, partial(vat, radius=0.3))}, guide.classify)
    whole = with_labels(objective if others else None, bound, guide.classify, weight=1.0)
    whole(model, guide, x=x, **known)
    before.classify(x if others else known["labelled_x"])
    torch.testing.assert_close(statistics(guide), statistics(before), rtol=0, atol=0)
    assert int(guide.classifier[0].num_batches_tracked) == 1
    assert guide.classifier[0].momentum == before.classifier[0].momentum


def test_data_of_which_the_story_says_nothing_have_their_terms_alone(pair, x):
    model, guide = pair
    terms, log_q = all_terms(0.0), guide.classify(x).logits
    found = regularised(discriminative(guide.classify), terms, guide.classify)(model, guide, x=x)
    assert set(found) == {"loss", *terms}
    torch.testing.assert_close(found["loss"], 5 * marginal_kl(None, x, log_q) + 0.5 * entropy(None, x, log_q))
    assert discriminative(guide.classify)(model, guide, x=x) == {"loss": torch.zeros(())}


def test_what_nothing_is_said_of_is_not_drawn(pair, x):
    model, guide = pair
    state = torch.get_rng_state()
    discriminative(guide.classify)(model, guide, x=x)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_guess_that_overflows_is_reported_as_the_terms_that_it_spoils():
    """The first step is so long that in the second all weights, and so all logits, are infinite or NaN."""
    network = torch.nn.Linear(COLUMNS, KINDS)
    pair = Classifier(network), ClassifierGuide(network)
    objective = regularised(discriminative(pair[1].classify), all_terms(0.0), pair[1].classify)
    optimizer = torch.optim.SGD(parameters(*pair), lr=math.inf)
    batches = Batches(Split(torch.randn(12, COLUMNS)), size=6, to_batch=lambda rows: {"x": rows.x})
    epochs = fit(*pair, batches, objective, optimizer, epochs=1)
    with pytest.raises(NonFiniteTerm, match=r"entropy became nan.* in step 2 of epoch 1"):
        next(epochs)


def test_a_guide_that_never_draws_the_site_is_told_so(pair, x):
    model, guide = pair
    objective = regularised(enum, all_terms(), guide.classify, site="kind")
    with pytest.raises(ValueError, match="the guide draws no site 'kind'"):
        objective(model, guide, x=x)


def test_with_the_share_of_labelled_for_each_unlabelled_one_every_datum_counts_alike(pair, x, known):
    """Bounds that are tight: the sum over all data of log p(x), and of log p(x, y) where y is known."""
    model, guide = pair

    def tight(model, guide, x, y=None):
        exact = evidence(model, x) if y is None else (y * joint_of_kinds(model, x)).sum(-1)
        return {"loss": -exact.mean(), "elbo": exact.mean().detach()}

    both = with_labels(tight, tight, guide.classify, weight=0.0, share=4 / 6)
    joint = joint_of_kinds(model, known["labelled_x"])[range(4), [0, 2, 1, 2]]
    whole = evidence(model, x).sum() + joint.sum()
    torch.testing.assert_close(6 * both(model, guide, x=x, **known)["loss"], -whole)


def test_terms_read_the_unlabelled_data_alone(pair, x, known):
    model, guide = pair
    seen = []

    def spy(classify, x, log_q):
        seen.append((log_q, x))
        return log_q.sum() * 0

    both = with_labels(
        regularised(enum, {"spy": (1.0, spy)}, guide.classify), enum, guide.classify, weight=1.0, share=1.0
    )
    both(model, guide, x=x, **known)
    ((log_q, data),) = seen
    assert data is x
    torch.testing.assert_close(log_q, guide.classify(x).logits)


def test_chosen_labels_do_not_train_the_weights_of_the_clusters():
    from pyro_models.guides import GMVAEGuide

    from pyro_models import GMVAE, nn
    from pyro_models.distributions import NormalLikelihood
    from pyro_models.objectives import enum, of_chosen_labels

    torch.manual_seed(0)
    model = GMVAE(nn.mlp(3, 4), nn.mlp(2, 5), NormalLikelihood(1.0, 1), 3, learned=True)
    encoder = nn.Conditional(nn.mlp(5, 4), nn.mlp(3, 4), nn.mlp(4, 4))
    guide = GMVAEGuide(nn.mlp(5, 3), encoder)
    batch = {"x": torch.randn(6, 5), "y": torch.eye(3)[[0, 0, 0, 0, 1, 2]]}
    terms = []
    for bound in (enum, of_chosen_labels(enum)):
        torch.manual_seed(1)
        model.zero_grad()
        found = bound(model, guide, **batch)
        found["loss"].backward()
        terms.append(({name: value.item() for name, value in found.items()}, model.scores.grad))
    assert terms[0][0] == terms[1][0]
    assert terms[0][1].abs().max() > 0
    assert terms[1][1] is None or not terms[1][1].any()
