"""Virtual adversarial training, against closed forms, the Fisher information by brute force, and bit by bit."""

import copy
from contextlib import nullcontext
from functools import partial

import pyro
import pytest
import torch
from pyro.distributions import OneHotCategorical
from pyro_models.guides.classifier import ClassifierGuide
from torch import nn
from torch.distributions import Categorical, kl_divergence
from torch.utils.flop_counter import FlopCounterMode

from pyro_models.classifier import Classifier
from pyro_models.nn import GaussianNoise, mlp, strided_classifier
from pyro_models.objectives import (
    SharedNoise,
    adversarial,
    adversary,
    discriminative,
    divergence,
    enum,
    frozen_statistics,
    graph,
    mean_field,
    regularised,
    relaxed,
    trace,
    vat,
    with_labels,
)
from tests.linear_mixture import COLUMNS, KINDS, gradient, linear_mixture

ROWS, IMAGES = (12,), (3, 2, 2)
both_shapes = pytest.mark.parametrize("shape", [ROWS, IMAGES], ids=["rows", "images"])
SEARCH = {"radius": 0.7, "finite_difference": 1e-3, "iterations": 1}


def guess(*layers):
    """q(y | x) by a network of flattened data."""
    return ClassifierGuide(nn.Sequential(nn.Flatten(), *layers)).classify


def nonlinear(kinds=3, inputs=12):
    return guess(*mlp(inputs, 8, kinds, activation=nn.Tanh))


def noisy(inputs=12, kinds=3):
    """A classifier that sees another mask and other noise in each pass."""
    return guess(nn.Dropout(0.3), nn.Linear(inputs, 8), GaussianNoise(0.5), nn.Tanh(), nn.Linear(8, kinds))


def normed(channels=3, side=8, kinds=3):
    """A classifier with batch norm, of images and of rows."""
    return ClassifierGuide(strided_classifier((channels, side, side), kinds)).classify


class Attentive(nn.Module):
    """A classifier by a layer of self-attention over the positions of x, with dropout throughout."""

    def __init__(self, positions=6, width=4, kinds=3):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(width, 2, 8, dropout=0.3, batch_first=True)
        self.head = nn.Linear(positions * width, kinds)

    def forward(self, x):
        return OneHotCategorical(logits=self.head(self.layer(x).flatten(1)))


def found(classify, x, seed=5, **options):
    torch.manual_seed(seed)
    return adversary(classify, x, classify(x).logits.detach(), **SEARCH | options).detach()


def lengths(r):
    return r.flatten(1).norm(dim=1)


def cosines(r, others):
    return torch.cosine_similarity(r.flatten(1), others.flatten(1), dim=1)


def fisher(classify, x):
    """J^T (diag(p) - p p^T) J for each datum, [n, inputs, inputs]: the curvature of the divergence at 0."""
    each = []
    for datum in x:
        jacobian = torch.autograd.functional.jacobian(lambda d: classify(d[None]).logits[0], datum).flatten(1)
        p = classify(datum[None]).probs[0].detach()
        each.append(jacobian.T @ (p.diag() - p.outer(p)) @ jacobian)
    return torch.stack(each)


def growth(classify, x, r):
    """r^T F r for each datum: twice the divergence that a step along r brings about, to second order."""
    flat = r.flatten(1)
    return torch.einsum("ni,nij,nj->n", flat, fisher(classify, x), flat)


@pytest.mark.parametrize("shape", [ROWS, IMAGES, (1, 4, 5)])
@pytest.mark.parametrize("finite_difference", [0.1, 1e-6])
def test_of_a_binary_logistic_classifier_the_step_is_the_weights_own_direction(shape, finite_difference):
    x = torch.randn(7, *shape)
    linear = nn.Linear(x[0].numel(), 2)
    r = found(guess(linear), x, radius=2.5, finite_difference=finite_difference)
    w = (linear.weight[1] - linear.weight[0]).detach().expand(7, -1)
    torch.testing.assert_close(cosines(r, w).abs(), torch.ones(7), rtol=0, atol=1e-8)
    torch.testing.assert_close(lengths(r), torch.full((7,), 2.5))
    assert r.shape == x.shape


@pytest.mark.parametrize("finite_difference", [0.1, 1e-2, 1e-6])
@pytest.mark.parametrize("gap", [0.0, 5.0])
def test_in_single_precision_too_the_step_is_the_weights_own_direction(gap, finite_difference):
    linear, x = nn.Linear(784, 2).float(), torch.rand(50, 1, 28, 28, dtype=torch.float32)
    linear.bias.data = torch.tensor([0.0, gap], dtype=torch.float32)
    r = found(guess(linear), x, finite_difference=finite_difference)
    w = (linear.weight[1] - linear.weight[0]).detach().expand(50, -1)
    torch.testing.assert_close(cosines(r, w).abs(), torch.ones(50, dtype=torch.float32), rtol=0, atol=1e-4)


@both_shapes
def test_many_iterations_find_the_first_eigenvector_of_the_fisher_information(shape):
    classify, x = nonlinear(), torch.randn(5, *shape)
    r = found(classify, x, iterations=300, finite_difference=1e-5)
    values, vectors = torch.linalg.eigh(fisher(classify, x))
    assert (values[:, -2] < 0.95 * values[:, -1]).all()  # or 300 iterations would not do
    torch.testing.assert_close(cosines(r, vectors[..., -1]).abs(), torch.ones(5), rtol=0, atol=1e-8)


@both_shapes
@pytest.mark.parametrize("iterations", [0, 1, 2, 4])
def test_one_more_iteration_finds_a_step_at_least_as_adversarial_for_every_datum(shape, iterations):
    classify, x = nonlinear(kinds=5), torch.randn(20, *shape)
    fewer, more = (growth(classify, x, found(classify, x, iterations=n)) for n in (iterations, iterations + 1))
    assert (more > fewer * (1 - 1e-4)).all()
    assert more.sum() > fewer.sum()


@pytest.mark.parametrize("radius", [0.1, 2.5])
@pytest.mark.parametrize("kinds", [3, 10])
def test_two_iterations_find_a_larger_divergence_than_one(kinds, radius):
    """The divergence itself, at the radius, by steps of the length that is the default."""
    for seed in range(5):
        classify, x, values = guess(*mlp(12, 32, kinds, activation=nn.Tanh)), torch.randn(100, *ROWS), []
        for iterations in (1, 2):
            torch.manual_seed(seed)
            values.append(vat(classify, x, radius=radius, iterations=iterations))
        assert values[1] > values[0]


def test_each_datum_has_its_own_step_whatever_the_others_are():
    classify, x = nonlinear(), torch.randn(6, *ROWS)
    together = found(classify, x, iterations=3)
    x[1:] = 10 * torch.randn(5, *ROWS)
    torch.testing.assert_close(found(classify, x, iterations=3)[:1], together[:1])


def test_the_step_is_found_where_gradients_are_off():
    classify, x = nonlinear(), torch.randn(6, *ROWS)
    with torch.no_grad():
        quiet = found(classify, x)
    assert torch.equal(quiet, found(classify, x))


@both_shapes
def test_the_term_is_torchs_divergence_at_the_step_that_the_same_seed_finds(shape):
    classify, x = nonlinear(), torch.randn(9, *shape)
    r = found(classify, x, seed=3)
    expected = kl_divergence(*(Categorical(logits=classify(data).logits) for data in (x, x + r))).mean()
    for given in ({}, {"log_q": classify(x).logits}):
        torch.manual_seed(3)
        torch.testing.assert_close(vat(classify, x, **given, **SEARCH), expected)
    module = nn.Sequential(nn.Flatten(), classify.__self__)
    module.forward = classify
    torch.manual_seed(3)
    torch.testing.assert_close(vat(module, x, **SEARCH), expected)


def test_the_divergence_of_categories_is_torchs():
    log_q, log_p = (3 * torch.randn(2, 9, 5)).log_softmax(-1)
    expected = kl_divergence(Categorical(logits=log_q), Categorical(logits=log_p)).mean()
    torch.testing.assert_close(divergence(log_q, log_p), expected)


@both_shapes
def test_of_a_constant_classifier_the_term_and_its_gradient_are_0_and_the_step_keeps_its_length(shape):
    linear = nn.Linear(12, 3)
    nn.init.zeros_(linear.weight)
    classify, x = guess(linear), torch.randn(7, *shape)
    value = vat(classify, x, **SEARCH)
    slopes = gradient(value, linear)
    torch.testing.assert_close(value, torch.tensor(0.0), rtol=0, atol=1e-15)
    torch.testing.assert_close(slopes, torch.zeros_like(slopes), rtol=0, atol=1e-15)
    torch.testing.assert_close(lengths(found(classify, x)), torch.full((7,), 0.7))


class Shifted(ClassifierGuide):
    """The same guess, by logits that all kinds of a datum have something added to."""

    def __init__(self, classify):
        super().__init__(classify.__self__.network)
        self.shift = nn.Linear(12, 1)

    def classify(self, x):
        return OneHotCategorical(logits=self.network(x) + 50 * self.shift(x.flatten(1)))


def test_what_is_added_to_all_logits_of_a_datum_changes_nothing():
    classify, x = nonlinear(), torch.randn(9, *ROWS)
    shifted = Shifted(classify)
    values = []
    for one in (classify, shifted.classify):
        torch.manual_seed(2)
        values.append(vat(one, x, **SEARCH))
    torch.testing.assert_close(*values)
    slopes = gradient(values[1], shifted.shift)
    torch.testing.assert_close(slopes, torch.zeros_like(slopes), rtol=0, atol=1e-12)


@pytest.mark.parametrize("radius", [1e-2, 1.0, 100.0])
@pytest.mark.parametrize("kinds", [2, 3, 50])
def test_the_term_is_above_0_for_a_guess_that_depends_on_the_data(radius, kinds):
    x = torch.randn(9, *ROWS)
    for _ in range(5):
        assert vat(nonlinear(kinds), x, **SEARCH | {"radius": radius}) > 0


def test_the_gradient_is_that_of_finite_differences_with_the_step_and_the_guess_held(monkeypatch):
    classify, x = nonlinear(inputs=3), torch.randn(6, 3)
    network = classify.__self__
    log_q = classify(x).logits.detach()
    torch.manual_seed(1)
    free = gradient(vat(classify, x, **SEARCH), network)  # nothing is held, and it is the same gradient
    r = found(classify, x, seed=1)
    monkeypatch.setattr(adversarial, "adversary", lambda *_, **__: r)
    held = gradient(vat(classify, x, log_q, **SEARCH), network)
    torch.testing.assert_close(free, held)
    numeric, little = [], 1e-6
    with torch.no_grad():
        for parameter in network.parameters():
            for entry in parameter.view(-1):
                entry += little
                above = vat(classify, x, log_q, **SEARCH)
                entry -= 2 * little
                below = vat(classify, x, log_q, **SEARCH)
                entry += little
                numeric.append((above - below) / (2 * little))
    torch.testing.assert_close(held, torch.stack(numeric), rtol=1e-6, atol=1e-8)
    assert held.abs().max() > 1e-3


def test_no_gradient_flows_into_the_guess_that_is_given():
    classify, x = nonlinear(), torch.randn(6, *ROWS)
    log_q = torch.randn(6, 3).log_softmax(-1).requires_grad_()
    value = vat(classify, x, log_q, **SEARCH)
    assert torch.autograd.grad(value, log_q, allow_unused=True) == (None,)


def learned(guide, x, y, beside):
    """The gradients of a cross-entropy that is accumulated in two halves, and perhaps a term computed between."""
    terms = []
    for half in (slice(0, 4), slice(4, None)):
        if beside:
            terms.append(vat(guide.classify, x, **SEARCH))
        (-guide.classify(x[half]).log_prob(y[half]).mean()).backward()
    return [parameter.grad.clone() for parameter in guide.parameters()], terms


def test_the_gradients_of_other_terms_and_the_statistics_are_those_without_it_to_the_bit():
    guide = normed().__self__
    twin = copy.deepcopy(guide)
    x, y = torch.rand(9, 3, 8, 8), torch.eye(3)[torch.arange(9) % 3]
    plain, _ = learned(guide, x, y, beside=False)
    beside, terms = learned(twin, x, y, beside=True)
    assert all(torch.equal(one, other) for one, other in zip(plain, beside, strict=True))
    for (name, one), other in zip(guide.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(one, other), name
    assert int(dict(guide.named_buffers())["network.1.num_batches_tracked"]) == 2
    own = torch.autograd.grad(terms[-1], list(twin.parameters()), retain_graph=True)
    terms[-1].backward()  # and its own is added to theirs
    for parameter, before, more in zip(twin.parameters(), beside, own, strict=True):
        assert torch.equal(parameter.grad, before + more)


def settings(module):
    names = ("training", "track_running_stats", "momentum")
    return {name: [getattr(part, key, None) for key in names] for name, part in module.named_modules()}


def same_buffers(module, other):
    """Up to rounding: the instance norm of torch 2.5 moves its means by an ulp in evaluation too."""
    return all(torch.allclose(one, other.get_buffer(name), 1e-14, 1e-15) for name, one in module.named_buffers())


@pytest.mark.parametrize("breaks", [None, 1, 2, 3])
@pytest.mark.parametrize("training", [True, False])
def test_modes_statistics_and_random_state_come_back_even_where_a_pass_fails(breaks, training):
    """Of the three passes of one iteration, the first, the second or the last."""
    classify, x, passes = normed(), torch.rand(6, 3, 8, 8), []
    guide = classify.__self__
    guide.train(training)
    guide.network[4].train(not training)
    guide.network[4].track_running_stats = False  # someone's own wish
    guide.network[1].momentum = 0.3  # and another's
    before, twin = settings(guide), copy.deepcopy(guide)

    def broken(_, given, out):
        passes.append((given[0].detach(), out.detach()))
        if len(passes) == breaks:
            raise ZeroDivisionError

    guide.network.register_forward_hook(broken)
    with pytest.raises(ZeroDivisionError) if breaks else nullcontext():
        vat(classify, x, **SEARCH)
    assert len(passes) == (breaks or 3)
    assert settings(guide) == before
    assert same_buffers(twin, guide)
    for given, out in passes:
        assert torch.equal(copy.deepcopy(twin).network(given), out)
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError) if breaks else nullcontext():
        passes.clear()
        for _ in range(3):
            SharedNoise(classify)(x)
    assert torch.equal(torch.get_rng_state(), state)


NORMS = {
    "batch 1d": (partial(nn.BatchNorm1d, 4), (9, 4)),
    "batch 2d": (partial(nn.BatchNorm2d, 4), (9, 4, 5, 5)),
    "batch 2d, plain mean": (partial(nn.BatchNorm2d, 4, momentum=None), (9, 4, 5, 5)),
    "instance 2d": (partial(nn.InstanceNorm2d, 4, track_running_stats=True), (9, 4, 5, 5)),
    "instance 2d, no momentum": (
        partial(nn.InstanceNorm2d, 4, momentum=None, affine=True, track_running_stats=True),
        (9, 4, 5, 5),
    ),
    "layer": (partial(nn.LayerNorm, 4), (9, 4)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", NORMS)
def test_frozen_statistics_change_no_value(kind, training):
    make, shape = NORMS[kind]
    norm = make()
    for _ in range(3):
        norm(torch.randn(shape) + 3)
    norm.train(training)
    x, before, twin = torch.randn(shape), settings(norm), copy.deepcopy(norm)
    with frozen_statistics(norm), frozen_statistics(norm):
        frozen = norm(x)
    assert settings(norm) == before
    assert same_buffers(twin, norm)
    torch.testing.assert_close(frozen, norm(x), rtol=1e-14, atol=1e-14)
    twin(x)
    assert same_buffers(twin, norm)  # and where they are frozen no more, they run on


@pytest.mark.parametrize(("make", "shape"), [(noisy, ROWS), (Attentive, (6, 4))], ids=["noise", "attention"])
def test_paired_passes_share_masks_and_noise_with_the_pass_that_begins_with_them(make, shape):
    classify, x = make(), torch.randn(50, *shape)
    again = SharedNoise(classify)
    first = classify(x).logits
    state = torch.get_rng_state()
    for _ in range(2):
        assert torch.equal(again(x).logits, first)
        torch.randn(3)
        assert not torch.equal(classify(x).logits, first)
    torch.set_rng_state(state)
    vat(again, x, first, **SEARCH)
    after = torch.randn(4)
    torch.set_rng_state(state)
    torch.randn_like(x)  # where the search starts, and nothing else
    assert torch.equal(torch.randn(4), after)


def test_masks_and_noise_add_nothing_to_the_term():
    """Towards no step at all the divergence is 0, which it is not from one mask to another."""
    classify, x = noisy(), torch.randn(50, *ROWS)
    log_q = classify(x).logits.detach()
    assert divergence(log_q, classify(x).logits) > 1e-2
    assert vat(classify, x, **SEARCH | {"radius": 1e-9}).abs() < 1e-12


STANDING = {
    "alone": lambda classify, x: vat(classify, x, **SEARCH),
    "given": lambda classify, x: vat(SharedNoise(classify), x, classify(x).logits, **SEARCH),
    "beside a bound": lambda classify, x: regularised(
        discriminative(classify), {"vat": (1.0, partial(vat, **SEARCH))}, classify
    )(None, None, x=x),
}


@pytest.mark.parametrize("use", STANDING)
def test_the_search_does_not_start_along_the_noise_that_all_its_passes_share(use):
    classify, x, passes = guess(GaussianNoise(0.5), *mlp(784, 8, 3, activation=nn.Tanh)), torch.randn(20, 784), []

    def watch(_, given, out):
        passes.append((given[0].detach(), (out - given[0]).detach()))

    classify.__self__.network[1].register_forward_hook(watch)
    STANDING[use](classify, x)
    (_, noise), (off, second), (_, third) = passes
    assert noise.std() > 0.4
    torch.testing.assert_close(second, noise)
    torch.testing.assert_close(third, noise)
    assert cosines(off - x, noise).abs().max() < 5 / 784**0.5  # whose deviation, at random, is 1 / sqrt(784)


@pytest.mark.parametrize("training", [True, False])
def test_a_search_of_its_own_leaves_the_statistics_as_they_are(training):
    classify, x = normed(), torch.rand(6, 3, 8, 8)
    guide = classify.__self__.train(training)
    log_q, twin = classify(x).logits.detach(), copy.deepcopy(guide)
    adversary(classify, x, log_q, **SEARCH)
    assert same_buffers(twin, guide)


class Tempered(ClassifierGuide):
    """A guess that takes an option."""

    def classify(self, x, temperature=1.0):
        return OneHotCategorical(logits=self.network(x) / temperature)


def test_a_method_with_its_options_given_belongs_to_its_module_too():
    guide, x = Tempered(normed().__self__.network), torch.rand(6, 3, 8, 8)
    once = partial(guide.classify, temperature=2.0)
    assert SharedNoise(once).module is SharedNoise(partial(partial(guide))).module is guide
    twin = copy.deepcopy(guide)
    torch.manual_seed(1)
    value = vat(once, x, **SEARCH)
    assert same_buffers(twin, guide)
    guide.network[-1].weight.data /= 2
    guide.network[-1].bias.data /= 2
    torch.manual_seed(1)
    torch.testing.assert_close(vat(guide.classify, x, **SEARCH), value)


def dropped(network):
    return nn.Sequential(nn.Dropout(0.5), network, GaussianNoise(1.0))


def of_the_mixture():
    model, guide = linear_mixture()
    guide.classifier = dropped(nn.Sequential(nn.Linear(COLUMNS, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, KINDS)))
    return model, guide


def of_the_classifier():
    network = dropped(mlp(COLUMNS, 8, KINDS, norm=nn.BatchNorm1d))
    return Classifier(network), ClassifierGuide(network)


BOUNDS = {
    "enum": (of_the_mixture, lambda classify: enum),
    "graph 3": (of_the_mixture, lambda classify: partial(graph, particles=3)),
    "relaxed": (of_the_mixture, lambda classify: relaxed(trace, 0.5)),
    "relaxed 3": (of_the_mixture, lambda classify: relaxed(partial(mean_field, particles=3), 0.5)),
    "classifier": (of_the_classifier, discriminative),
}


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("labels", [False, True], ids=["", "with labels"])
def test_a_term_sees_the_very_pass_of_the_guide_again(bound, labels):
    make, objective = BOUNDS[bound]
    model, guide = make()
    x, seen = torch.randn(20, COLUMNS), []

    def spy(classify, data, log_q):
        state = torch.get_rng_state()
        seen.append((classify(data).logits, log_q))
        assert torch.equal(torch.get_rng_state(), state)
        assert data is x
        return log_q.sum() * 0

    batch, whole = {"x": x}, regularised(objective(guide.classify), {"spy": (1.0, spy)}, guide.classify)
    if labels:
        whole = with_labels(whole, relaxed(trace, 0.5), guide.classify, weight=1.0)
        batch |= {"labelled_x": torch.randn(5, COLUMNS), "labelled_y": torch.eye(KINDS)[torch.arange(5) % KINDS]}
    whole(model, guide, **batch)
    ((again, log_q),) = seen
    if "relaxed" in bound:  # which normalises what is normal already: a last bit may change
        again = OneHotCategorical(logits=again).logits
    assert torch.equal(again, log_q)
    assert not torch.equal(guide.classify(x).logits, log_q)  # in another pass it is another


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_search_is_exact_where_the_passes_are_rounded_to_half_precision(dtype):
    classify, x = nonlinear().__self__.float().classify, torch.rand(40, *ROWS, dtype=dtype)
    exact, exact_value = found(classify, x.float()), vat(classify, x.float(), **SEARCH)
    with torch.autocast("cpu", torch.bfloat16):
        assert classify.__self__.network(x).dtype == torch.bfloat16
        rounded, value = found(classify, x), vat(classify, x, **SEARCH)
    assert rounded.dtype == dtype
    assert (cosines(rounded.float(), exact) > 0.99).all()
    torch.testing.assert_close(lengths(rounded.float()), lengths(exact), rtol=1e-2, atol=0)
    assert value.isfinite()
    torch.testing.assert_close(value.float(), exact_value, rtol=0.3, atol=0)
    assert gradient(value, classify.__self__).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("whole", [True, False], ids=["all in half precision", "autocast"])
@pytest.mark.parametrize("kinds", [2, 10])
def test_in_half_precision_the_term_is_never_below_0(dtype, whole, kinds):
    weights, data = (dtype, dtype) if whole else (torch.float32, torch.float32)
    for _ in range(5):
        classify = guess(nn.Linear(784, kinds).to(weights))
        x = torch.rand(32, 1, 28, 28).to(data)
        with torch.autocast("cpu", dtype, enabled=not whole), pyro.validation_enabled(False):
            assert classify(x).logits.dtype == dtype
            assert vat(classify, x, radius=0.1) > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_divergence_of_rounded_logarithms_is_that_of_the_categories_nearest_to_them(dtype):
    log_q, log_p = (torch.randn(300, 5).log_softmax(-1).to(dtype) for _ in range(2))
    expected = kl_divergence(*(Categorical(logits=rounded.double()) for rounded in (log_q, log_p)))
    torch.testing.assert_close(divergence(log_q, log_p).double(), expected.mean(), rtol=1e-5, atol=0)
    assert divergence(log_q, log_q) == 0


@pytest.mark.parametrize("gap", [40.0, 200.0])
@pytest.mark.parametrize("kinds", [2, 3, 50])
@pytest.mark.parametrize("finite_difference", [0.1, 1e-6])
def test_in_single_precision_sure_guesses_give_finite_values_and_gradients(gap, kinds, finite_difference):
    linear = nn.Linear(12, kinds).float()
    linear.bias.data = torch.arange(kinds, dtype=torch.float32) * gap
    classify, x = guess(linear), torch.rand(8, *ROWS, dtype=torch.float32)
    for radius in (0.1, 1000.0):
        value = vat(classify, x, radius=radius, finite_difference=finite_difference)
        assert value.isfinite()
        assert gradient(value, linear).isfinite().all()
    r = found(classify, x, finite_difference=finite_difference)
    torch.testing.assert_close(lengths(r), torch.full((8,), 0.7, dtype=torch.float32))


def test_a_slope_whose_square_underflows_still_has_a_direction():
    """A second kind of probability exp(-60), 1e-26: its slope can be squared in float32 to 0 alone."""
    linear = nn.Linear(12, 2).float()
    nn.init.zeros_(linear.weight[0].data)
    linear.bias.data = torch.tensor([60.0, 0.0], dtype=torch.float32)
    x = torch.rand(8, *ROWS, dtype=torch.float32)
    r, w = found(guess(linear), x, finite_difference=0.1), linear.weight[1].detach().expand(8, -1)
    torch.testing.assert_close(cosines(r, w).abs(), torch.ones(8, dtype=torch.float32), rtol=0, atol=1e-4)


def test_the_same_seed_gives_the_same_value_and_another_another():
    classify, x, values = noisy(), torch.randn(9, *ROWS), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(vat(classify, x, **SEARCH))
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


@pytest.mark.parametrize(
    "use",
    [
        lambda classify, x: vat(classify, x, **SEARCH),
        lambda classify, x: SharedNoise(classify),
        lambda classify, x: regularised(enum, {"vat": (1.0, vat)}, classify)(*linear_mixture(), x=x),
    ],
    ids=["vat", "SharedNoise", "regularised"],
)
def test_what_belongs_to_no_module_is_refused(use):
    network = nn.Linear(COLUMNS, KINDS)
    with pytest.raises(TypeError, match=r"must be an nn\.Module or a method of one"):
        use(lambda x: OneHotCategorical(logits=network(x)), torch.randn(6, COLUMNS))


@pytest.mark.parametrize("iterations", [0, 1, 2, 5])
@pytest.mark.parametrize("given", [True, False])
def test_an_iteration_costs_one_pass_and_the_guess_none_where_it_is_given(iterations, given):
    classify, x, calls = nonlinear(), torch.randn(6, *ROWS), []
    log_q = classify(x).logits if given else None
    classify.__self__.network.register_forward_hook(lambda *_: calls.append(1))
    vat(classify, x, log_q, **SEARCH | {"iterations": iterations})
    assert len(calls) == iterations + 1 + (not given)


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_search_goes_back_to_the_data_alone(iterations):
    """Through a matrix, a pass back to the data costs what a pass forward does, and one to the weights as much more."""
    classify, x = nonlinear(), torch.randn(6, *ROWS)
    log_q = classify(x).logits
    forward = 2 * 6 * (12 * 8 + 8 * 3)
    with FlopCounterMode(display=False) as counter:
        value = vat(classify, x, log_q, **SEARCH | {"iterations": iterations})
    assert counter.get_total_flops() == (2 * iterations + 1) * forward
    assert all(parameter.grad is None for parameter in classify.__self__.parameters())
    with FlopCounterMode(display=False) as counter:
        value.backward()
    assert counter.get_total_flops() == forward + 2 * 6 * 8 * 3  # to all weights, and through the second layer
