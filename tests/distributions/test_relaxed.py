import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import RelaxedOneHotCategorical as Torchs

from pyro_models.distributions import RelaxedOneHotCategorical

KINDS, DRAWS = 10, 4000


@pytest.mark.parametrize("temperature", [0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("remembered", [True, False])
def test_the_density_is_torchs_at_moderate_temperatures(temperature, remembered):
    t, logits = torch.tensor(temperature), torch.randn(3, 5)
    ours = RelaxedOneHotCategorical(t, logits=logits)
    value = ours.rsample((50,))
    other = torch.randn(3, 5)  # of another distribution too
    for theirs in (logits, other):
        ours = RelaxedOneHotCategorical(t, logits=theirs)
        expected = Torchs(t, logits=theirs).log_prob(value.clone())
        assert expected.shape == (50, 3)
        torch.testing.assert_close(ours.log_prob(value if remembered else value.clone()), expected)


def test_a_copy_of_a_draw_forgets_its_logarithm_and_the_density_stays():
    q = RelaxedOneHotCategorical(torch.tensor(0.7), logits=torch.randn(4))
    value = q.rsample((20,))
    assert q.exp.remembers(value)
    assert not q.exp.remembers(value.clone())
    torch.testing.assert_close(q.log_prob(value), q.log_prob(value.clone()))


def test_distributions_that_share_the_transform_have_the_exact_densities_of_each_others_draws():
    temperature, logits = torch.tensor(0.02, dtype=torch.float32), torch.linspace(-9, 9, KINDS, dtype=torch.float32)
    q = RelaxedOneHotCategorical(temperature, logits=logits)
    p = RelaxedOneHotCategorical(temperature, logits=0 * logits, exp=q.exp)
    value = q.rsample((50,))
    log_value = q.exp.inv(value).double()
    assert (value == 0).any()
    exact = Torchs(temperature.double(), logits=0 * logits.double()).base_dist.log_prob(log_value) - log_value.sum(-1)
    torch.testing.assert_close(p.log_prob(value).double(), exact, rtol=1e-5, atol=1e-3)


@pytest.fixture
def noise(monkeypatch):
    """Let every draw be made of the same noise, whatever its type, and say what it is."""
    exponential = torch.empty(DRAWS, KINDS, dtype=torch.float32).exponential_()
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self: self.copy_(exponential))
    return exponential


def extreme(dtype):
    """Draws at temperature 0.1 of logits up to 100 apart: values, their densities under q and p, and gradients."""
    logits = torch.linspace(-50, 50, KINDS, dtype=dtype).requires_grad_()
    temperature = torch.tensor(0.1, dtype=dtype)
    q = RelaxedOneHotCategorical(temperature, logits=logits.expand(DRAWS, KINDS))
    p = RelaxedOneHotCategorical(temperature, logits=torch.zeros(KINDS, dtype=dtype), exp=q.exp)
    value = q.rsample()
    log_q, log_p = q.log_prob(value), p.log_prob(value)
    weights = torch.linspace(-1, 1, KINDS, dtype=dtype)
    gradients = [
        torch.autograd.grad(term, logits, retain_graph=True)[0]
        for term in (log_q.mean(), log_p.mean(), (log_q - log_p).mean(), (value @ weights).mean())
    ]
    return value.detach(), q.exp.inv(value).detach(), log_q.detach(), log_p.detach(), torch.stack(gradients)


def test_at_a_low_temperature_and_far_logits_float32_is_finite_and_equals_float64(noise):
    names = ("value", "log_value", "log_q", "log_p", "gradients")
    for name, single, double in zip(names, extreme(torch.float32), extreme(torch.float64), strict=True):
        assert single.dtype == torch.float32
        assert single.isfinite().all(), name
        torch.testing.assert_close(single.double(), double, rtol=2e-4, atol=2e-3, msg=lambda m, n=name: f"{n}: {m}")
    assert (extreme(torch.float32)[0] == 0).any()  # the trap that torch falls into


def test_torchs_own_is_not_finite_there():
    logits = torch.linspace(-50, 50, KINDS, dtype=torch.float32).requires_grad_()
    q = Torchs(torch.tensor(0.1, dtype=torch.float32), logits=logits, validate_args=False)
    log_q = q.log_prob(q.rsample((DRAWS,)))
    assert not log_q.isfinite().all()
    assert not torch.autograd.grad(log_q.sum(), logits)[0].isfinite().all()


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0, 10.0])
def test_draws_of_float32_lie_on_the_simplex(temperature):
    logits = torch.linspace(-5, 5, KINDS, dtype=torch.float32)
    q = RelaxedOneHotCategorical(logits.new_tensor(temperature), logits=logits)
    value = q.rsample((DRAWS,))
    assert value.dtype == torch.float32
    assert (value >= 0).all()
    torch.testing.assert_close(value.sum(-1), torch.ones(DRAWS, dtype=torch.float32))
    assert (q.exp.inv(value) <= 0).all()


def test_a_draw_by_rsample_carries_a_gradient_and_one_by_sample_none():
    logits = torch.randn(3, requires_grad=True)
    q = RelaxedOneHotCategorical(torch.tensor(0.5), logits=logits)
    assert q.rsample().requires_grad
    value = q.sample((4,))
    assert not value.requires_grad
    assert not q.exp.inv(value).requires_grad
    assert value.shape == (4, 3)
    assert q.log_prob(value).requires_grad


def test_the_gradient_of_a_draw_is_that_of_its_formula(noise):
    logits = torch.randn(DRAWS, KINDS, requires_grad=True)
    value = RelaxedOneHotCategorical(torch.tensor(0.7), logits=logits).rsample()
    formula = ((logits - noise.double().log()) / 0.7).softmax(-1)
    torch.testing.assert_close(value, formula)
    weights = torch.randn(DRAWS, KINDS)
    ours, expected = (torch.autograd.grad((weights * draw).sum(), logits)[0] for draw in (value, formula))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_the_largest_entry_of_a_draw_falls_to_each_kind_with_its_probability(temperature):
    draws, logits = 40_000, torch.tensor([0.5, -1.0, 2.0, 0.0])
    value = RelaxedOneHotCategorical(torch.tensor(temperature), logits=logits).sample((draws,))
    frequencies, expected = value.argmax(-1).bincount(minlength=4) / draws, logits.softmax(0)
    assert ((frequencies - expected).abs() < 5 * (expected * (1 - expected) / draws).sqrt()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_a_one_hot_value_from_elsewhere_has_a_finite_density_and_gradient(dtype, temperature):
    logits = torch.tensor([30.0, 0.0, -30.0], dtype=dtype, requires_grad=True)
    q = RelaxedOneHotCategorical(torch.tensor(temperature, dtype=dtype), logits=logits)
    log_prob = q.log_prob(torch.eye(3, dtype=dtype))
    assert log_prob.isfinite().all()
    assert torch.autograd.grad(log_prob.sum(), logits)[0].isfinite().all()


def test_what_lies_off_the_simplex_is_refused():
    q = RelaxedOneHotCategorical(torch.tensor(0.5), logits=torch.zeros(3))
    with pytest.raises(ValueError, match="within the support"):
        q.log_prob(torch.tensor([0.5, 0.5, 0.5]))


def test_expanding_keeps_the_class_the_parameters_and_the_density():
    q = RelaxedOneHotCategorical(torch.tensor(0.1), logits=torch.randn(1, 4))
    wide = q.expand((3, 5))
    assert type(wide) is RelaxedOneHotCategorical
    assert (wide.batch_shape, wide.event_shape) == ((3, 5), (4,))
    value = wide.rsample((2,))
    assert value.shape == (2, 3, 5, 4)
    assert len(value.reshape(-1, 4).unique(dim=0)) == 30
    torch.testing.assert_close(wide.log_prob(value), q.log_prob(value))
    torch.testing.assert_close(wide.logits, q.logits.expand(3, 5, 4))
    assert type(wide.expand((2, 3, 5))) is RelaxedOneHotCategorical


def test_a_plate_and_a_trace_keep_the_logarithm_of_the_draw():
    q = RelaxedOneHotCategorical(torch.tensor(0.01), logits=torch.linspace(-50, 50, 4))

    def story():
        with pyro.plate("many", 500):
            return pyro.sample("y", q)

    trace = pyro.poutine.trace(story).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["y"]
    assert type(site["fn"]) is RelaxedOneHotCategorical
    assert site["log_prob"].isfinite().all()
    again = pyro.poutine.trace(pyro.poutine.replay(story, trace)).get_trace()
    again.compute_log_prob()
    torch.testing.assert_close(again.nodes["y"]["log_prob"], site["log_prob"])


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("logit", [0.0, 1.5, -4.0])
def test_the_density_of_two_kinds_integrates_to_1(temperature, logit):
    """Over y = sigmoid(u), whose slope is y (1 - y)."""
    q = RelaxedOneHotCategorical(torch.tensor(temperature), logits=torch.tensor([logit, 0.0]))
    reach = 30 / min(temperature, 1.0) + 5 * abs(logit) / temperature
    u = torch.linspace(-min(reach, 700), min(reach, 700), 200_001)
    log_slope = torch.nn.functional.logsigmoid(u) + torch.nn.functional.logsigmoid(-u)
    y = q.exp(torch.nn.functional.logsigmoid(torch.stack([u, -u], -1)))
    torch.testing.assert_close(torch.trapezoid((q.log_prob(y) + log_slope).exp(), u), torch.tensor(1.0))


def test_the_exact_category_is_what_is_relaxed():
    logits = torch.randn(2, 5)
    discrete = RelaxedOneHotCategorical(torch.tensor(0.3), logits=logits).discrete
    assert isinstance(discrete, dist.OneHotCategorical)
    torch.testing.assert_close(discrete.probs, logits.softmax(-1))
