"""Virtual adversarial training against closed forms, brute force, and what it has to leave alone."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian
from torch.distributions import Categorical, kl_divergence

from guides.classifier import ClassifierGuide
from guides.gmvae import GMVAEGuide
from pyro_models.nn import Conditional, GaussianNoise, mlp
from pyro_models.objectives import Paired, adversary, frozen_statistics, regularised, unexplained, vat

SEARCH = {"radius": 0.7, "finite_difference": 1e-6}


class Classifier(nn.Module):
    """q(y | x) from a network of flat data."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return dist.OneHotCategorical(logits=self.network(x.flatten(1)))


class Logistic(nn.Module):
    """Two kinds, with log odds w x."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x):
        odds = x.flatten(1) @ self.w
        return torch.stack([odds, torch.zeros_like(odds)], -1)


def noisy(columns=6, kinds=3):
    """A network with batch norm, dropout and noise."""
    layers = [nn.Linear(columns, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), GaussianNoise(0.5)]
    return nn.Sequential(*layers, nn.Linear(16, kinds))


def smooth(columns=6, kinds=3):
    return Classifier(mlp(columns, 16, kinds, activation=nn.Tanh))


@pytest.mark.parametrize("shape", [(5, 12), (5, 1, 3, 4), (5, 3, 2, 2)])
def test_the_direction_of_a_logistic_classifier_is_its_weight(shape):
    w = torch.randn(12)
    classify, x = Classifier(Logistic(w)), torch.rand(shape)
    r = adversary(classify, x, classify(x).logits.detach(), iterations=1, **SEARCH)
    assert r.shape == x.shape
    torch.testing.assert_close(r.flatten(1).norm(dim=1), torch.full((5,), 0.7))
    cosine = torch.cosine_similarity(r.flatten(1), w[None])
    torch.testing.assert_close(cosine.abs(), torch.ones(5), rtol=0, atol=1e-4)


def fisher(classify, x):
    """The curvature of KL(q(y | x) || q(y | x + r)) at r = 0, for one datum [columns]: J^T (diag(p) - p p^T) J."""
    slope = jacobian(lambda x: classify.network(x[None])[0], x)
    p = classify.network(x[None])[0].softmax(-1).detach()
    return slope.T @ (p.diag() - p[:, None] * p) @ slope


def test_the_direction_tends_to_the_first_eigenvector_of_the_fisher_information():
    classify, x = smooth(), torch.randn(4, 6)
    log_q = classify(x).logits.detach()
    start = {n: _seeded(classify, x, log_q, n) for n in (1, 2, 200)}
    for datum in range(4):
        curvature = fisher(classify, x[datum])
        first = torch.linalg.eigh(curvature).eigenvectors[:, -1]
        cosine = torch.cosine_similarity(start[200][datum], first, dim=0).abs()
        torch.testing.assert_close(cosine, torch.tensor(1.0), rtol=0, atol=1e-4)
        once, twice = (start[n][datum] @ curvature @ start[n][datum] for n in (1, 2))
        assert twice >= once * (1 - 1e-6)


def _seeded(classify, x, log_q, iterations, **search):
    torch.manual_seed(3)
    return adversary(classify, x, log_q, iterations=iterations, **SEARCH | search)


@pytest.mark.parametrize("kinds", [2, 3, 50])
def test_the_term_is_the_divergence_at_the_step(kinds):
    classify, x = smooth(kinds=kinds), torch.randn(7, 6)
    log_q = classify(x).logits
    r = _seeded(classify, x, log_q.detach(), 1)
    torch.manual_seed(3)
    value = vat(classify, x, iterations=1, **SEARCH)
    expected = kl_divergence(Categorical(logits=log_q), Categorical(logits=classify(x + r).logits)).mean()
    torch.testing.assert_close(value, expected)
    assert value > 0
    torch.manual_seed(3)
    assert torch.equal(vat(classify, x, log_q, iterations=1, **SEARCH), value)


def test_it_is_0_for_a_constant_classifier_and_blind_to_a_constant_in_the_logits():
    classify, x = smooth(), torch.randn(7, 6)
    torch.manual_seed(3)
    before = vat(classify, x, **SEARCH)
    classify.network[-1].bias.data += 5.0
    torch.manual_seed(3)
    torch.testing.assert_close(vat(classify, x, **SEARCH), before, rtol=1e-5, atol=0)
    nn.init.zeros_(classify.network[-1].weight)
    constant = vat(classify, x, **SEARCH)
    torch.testing.assert_close(constant, torch.tensor(0.0), rtol=0, atol=1e-15)
    for slope in torch.autograd.grad(constant, list(classify.parameters())):
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)


def test_its_gradient_is_that_of_finite_differences_at_a_fixed_step():
    classify, x = smooth(), torch.randn(5, 6)
    log_q = classify(x).logits.detach()
    r = _seeded(classify, x, log_q, 1)
    torch.manual_seed(3)
    weight = classify.network[0].weight
    (slope,) = torch.autograd.grad(vat(classify, x, **SEARCH), weight)

    def value():
        return (log_q.exp() * (log_q - classify(x + r).logits)).sum(-1).mean().item()

    for place in ((0, 0), (3, 2), (15, 5)):
        old, step = weight[place].item(), 1e-6
        sides = []
        for side in (step, -step):
            weight.data[place] = old + side
            sides.append(value())
        weight.data[place] = old
        assert slope[place].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-5, abs=1e-10)


def test_no_gradient_flows_into_the_prediction_that_is_kept():
    classify, x = smooth(), torch.randn(5, 6)
    log_q = classify(x).logits.detach().requires_grad_()
    value = vat(classify, x, log_q, **SEARCH)
    assert torch.autograd.grad(value, log_q, allow_unused=True) == (None,)


def test_gradients_of_others_buffers_modes_and_noise_are_left_alone():
    classify, x = Classifier(noisy()), torch.randn(9, 6)
    classify(x).logits.square().mean().backward()
    gradients = [p.grad.clone() for p in classify.parameters()]
    buffers = [b.clone() for b in classify.buffers()]
    tracking = [m.track_running_stats for m in classify.modules() if hasattr(m, "track_running_stats")]
    vat(classify, x, iterations=2, **SEARCH)
    assert all(torch.equal(p.grad, old) for p, old in zip(classify.parameters(), gradients, strict=True))
    assert all(torch.equal(new, old) for new, old in zip(classify.buffers(), buffers, strict=True))
    assert [m.track_running_stats for m in classify.modules() if hasattr(m, "track_running_stats")] == tracking
    assert all(m.training for m in classify.modules())
    again, state = Paired(classify), torch.get_rng_state()
    again(x)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(RuntimeError):
        again(x[:, :2])
    assert [m.track_running_stats for m in classify.modules() if hasattr(m, "track_running_stats")] == tracking
    assert torch.equal(torch.get_rng_state(), state)


def test_batch_norm_takes_its_batchs_statistics_in_training_and_its_running_ones_in_evaluation():
    norm, x = nn.BatchNorm1d(6), torch.randn(9, 6) * 3 + 1
    with frozen_statistics(norm):
        torch.testing.assert_close(norm(x).mean(0), torch.zeros(6), rtol=0, atol=1e-12)
        norm.eval()
        torch.testing.assert_close(norm(x), x / (1 + 1e-5) ** 0.5)
    assert norm.num_batches_tracked == 0
    norm.train()(x)
    assert norm.num_batches_tracked == 1


def guides():
    body = Conditional(nn.Linear(6, 8), nn.Linear(3, 8), nn.Linear(8, 4))
    return [ClassifierGuide(noisy()), GMVAEGuide(noisy(), body)]


@pytest.mark.parametrize("guide", guides(), ids=["classifier", "mixture"])
def test_the_terms_see_the_dropout_and_the_noise_of_the_bound(guide):
    guide, seen = guide.to(torch.float64), []

    def spy(classify, x, log_q):
        seen.append((classify(x).logits, classify(x).logits, log_q, guide.classify(x).logits))
        return log_q.mean()

    def bound(model, guide, x):
        guide(x=x)
        return {"loss": torch.zeros(())}

    objective = unexplained(guide.classify) if isinstance(guide, ClassifierGuide) else bound
    regularised(objective, {"spy": (1.0, spy)}, guide.classify)(None, guide, x=torch.randn(9, 6))
    ((once, twice, log_q, other),) = seen
    assert torch.equal(once, log_q)
    assert torch.equal(twice, log_q)
    assert not torch.equal(other, log_q)


def test_the_search_takes_no_slope_of_a_parameter_and_as_many_passes_as_it_says():
    classify, x, passes, slopes = smooth(), torch.randn(5, 6), [], []
    log_q = classify(x).logits.detach()
    classify.register_forward_hook(lambda *_: passes.append(1))
    for parameter in classify.parameters():
        parameter.register_hook(lambda slope: slopes.append(1))
    value = vat(classify, x, log_q, iterations=3, **SEARCH)
    assert (len(passes), len(slopes)) == (4, 0)
    value.backward()
    assert len(slopes) == len(list(classify.parameters()))


def test_mixed_precision_finds_the_same_direction():
    torch.set_default_dtype(torch.float32)
    classify, x = smooth(), torch.randn(16, 6)
    exact = _seeded(classify, x, classify(x).logits.detach(), 1, finite_difference=1e-2)
    with torch.autocast("cpu", torch.bfloat16):
        found = _seeded(classify, x, classify(x).logits.detach(), 1, finite_difference=1e-2)
        value = vat(classify, x, radius=0.7, finite_difference=1e-2)
    assert found.dtype == torch.float32
    assert torch.cosine_similarity(found, exact).min() > 0.99
    assert value.isfinite()


def test_sure_guesses_in_single_precision_stay_finite():
    torch.set_default_dtype(torch.float32)
    classify, x = smooth(), torch.randn(16, 6)
    classify.network[-1].weight.data *= 400
    assert (classify(x).logits.amin(-1) < -40).any()
    value = vat(classify, x, radius=1.0, finite_difference=1e-1, iterations=2)
    assert value.isfinite()
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(value, list(classify.parameters())))


def test_a_function_that_hides_its_module_is_refused():
    classify = smooth()
    with pytest.raises(TypeError, match=r"an nn\.Module or a method of one"):
        vat(lambda x: classify(x), torch.randn(3, 6), **SEARCH)
