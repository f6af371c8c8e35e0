import copy
import gc
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroSample
from pytorch_optimizer import ScheduleFreeSGD

from pyro_models.base.errors import UserError
from pyro_models.data import Batches, Split, batch_of
from pyro_models.objectives import iwae, mean_field, renyi, trace
from pyro_models.training.loop import NonFiniteTerm, fit, parameters, program
from pyro_models.training.schedules import cosine, stages
from tests.conftest import IMAGE


@pytest.fixture
def batches():
    images = torch.randint(0, 256, (60, *IMAGE), dtype=torch.uint8)
    return Batches(Split(images), size=20, to_batch=partial(batch_of, pixels="dynamic"), seed=5)


def adam(pair):
    return torch.optim.Adam(parameters(*pair), lr=0.01)


def weights(pair):
    return [p.detach().clone() for p in parameters(*pair)]


def same(ones, others):
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


@pytest.mark.parametrize("objective", [trace, mean_field, iwae, renyi])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_stopping_and_going_on_is_bit_identical_to_never_stopping(vae, batches, objective, stop):
    def run(pair, optimizer, done, epochs):
        rate = cosine(0.01)
        for _ in fit(*pair, batches, objective, optimizer, epochs=4, done=done, seed=9, learning_rate=rate):
            done += 1
            if done == epochs:
                break

    through = copy.deepcopy(vae)
    run(through, adam(through), 0, 4)

    optimizer = adam(vae)
    run(vae, optimizer, 0, stop)
    saved, state = copy.deepcopy(vae), copy.deepcopy(optimizer.state_dict())
    torch.randn(17)  # whatever happens in between
    later = adam(saved)
    later.load_state_dict(state)
    run(saved, later, stop, 4)
    assert same(weights(saved), weights(through))


def test_a_second_pair_in_the_same_process_is_trained_as_the_first_was(vae, batches):
    twin, before = copy.deepcopy(vae), weights(vae)
    for pair in (vae, twin):
        list(fit(*pair, batches, mean_field, adam(pair), epochs=2, seed=1))
    assert same(weights(vae), weights(twin))
    assert not any(torch.equal(one, other) for one, other in zip(before, weights(vae), strict=True))


def test_pyros_parameter_store_is_left_alone(vae, batches):
    pyro.param("mine", torch.tensor(3.0))
    list(fit(*vae, batches, trace, adam(vae), epochs=1))
    assert list(pyro.get_param_store().keys()) == ["mine"]


def test_a_step_is_the_hand_written_step(vae, batches):
    pair = copy.deepcopy(vae)
    (epoch,) = fit(*vae, batches, mean_field, torch.optim.SGD(parameters(*vae), lr=0.1), epochs=1, seed=2)
    model, guide = pair
    torch.manual_seed(0)
    from pyro_models.base.seeds import derived_seed

    torch.manual_seed(derived_seed(2, "noise", 0, 0))
    elbos = []
    for batch in batches.epoch(0):
        x = batch["x"]
        loc, log_scale = guide.encoder(x).chunk(2, -1)
        z = loc + log_scale.exp() * torch.randn_like(loc)
        logits = model.decoder(z)
        reconstruction = -torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
        kl = (0.5 * (loc**2 + (2 * log_scale).exp() - 1) - log_scale).sum() / len(x)
        gradients = torch.autograd.grad(kl - reconstruction, parameters(*pair))
        with torch.no_grad():
            for parameter, gradient in zip(parameters(*pair), gradients, strict=True):
                parameter -= 0.1 * gradient
        elbos.append((reconstruction - kl).item())
    for one, other in zip(weights(vae), weights(pair), strict=True):
        torch.testing.assert_close(one, other)
    assert epoch.terms["elbo"] == pytest.approx(sum(elbos) / 3)


def test_a_term_that_is_not_finite_stops_the_run_by_name_and_step(vae, batches):
    calls = []

    def objective(model, guide, **batch):
        calls.append(1)
        terms = mean_field(model, guide, **batch)
        return terms | {"kl": terms["kl"] * (float("nan") if len(calls) == 5 else 1.0)}

    epochs = fit(*vae, batches, objective, adam(vae), epochs=3)
    assert next(epochs).number == 1
    with pytest.raises(NonFiniteTerm, match="kl became nan in step 2 of epoch 2"):
        next(epochs)


def test_the_step_size_follows_half_a_cosine(vae, batches):
    seen = []
    optimizer = adam(vae)
    optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    list(fit(*vae, batches, trace, optimizer, epochs=2, learning_rate=cosine(0.4)))
    expected = [0.2 * (1 + torch.cos(torch.tensor(torch.pi * k / 6)).item()) for k in range(6)]
    assert seen == pytest.approx(expected)


def test_a_learning_rate_for_adam_does_not_go_with_another_optimiser(vae, batches):
    for optimizer in (adam(vae), partial(torch.optim.SGD, lr=1e-5)):
        with pytest.raises(UserError, match=r"`learning_rate=0\.5` is Adam's: give the optimiser its own"):
            fit(*vae, batches, trace, optimizer, epochs=1, learning_rate=0.5)


def test_a_schedule_free_optimiser_leaves_the_mean_of_its_iterates_after_each_epoch(vae, batches):
    """Defazio et al., 2024, equations 1 to 3, at a constant step size."""
    optimizer = ScheduleFreeSGD(parameters(*vae), lr=0.01, weight_decay=0.0)
    weight = parameters(*vae)[0]
    iterates = []
    optimizer.register_step_post_hook(lambda optimizer, *_: iterates.append(optimizer.state[weight]["z"].clone()))
    for epoch in fit(*vae, batches, trace, optimizer, epochs=3):
        torch.testing.assert_close(weight.detach(), torch.stack(iterates).mean(0))
        assert len(iterates) == epoch.number * len(batches)
    assert not torch.allclose(weight, iterates[-1])


def test_the_step_size_goes_through_the_stages_of_the_paper():
    rate = stages(0.001)
    passes = [3**i for i in range(8)]
    assert sum(passes) == 3280
    expected = [0.001 * 10 ** (-i / 7) for i, held in enumerate(passes) for _ in range(held)]
    assert [rate((done + 0.5) / 3280) for done in range(3280)] == pytest.approx(expected, rel=1e-12)


def test_nothing_is_kept_from_one_epoch_to_the_next(vae, batches):
    def alive():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    epochs = fit(*vae, batches, mean_field, adam(vae), epochs=30)
    for _ in range(2):
        next(epochs)
    early = alive()
    for _ in range(3):
        next(epochs)
    assert alive() == early


class Bayesian(PyroModule):
    """A story that draws its own weight."""

    def __init__(self):
        super().__init__()
        self.weight = PyroSample(dist.Normal(0.0, 1.0))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            return pyro.sample("x", dist.Normal(self.weight, 1.0), obs=x)


def test_parameters_are_not_announced_but_drawn_weights_are(vae, x):
    for half in vae:
        with pyro.poutine.trace(param_only=True) as announced:
            program(half)(x=x)
        assert not announced.trace.nodes
    trace = pyro.poutine.trace(program(Bayesian())).get_trace(x=torch.randn(5))
    assert set(trace.stochastic_nodes) == {"weight", "data"}


def test_shared_parameters_are_counted_once():
    layer = torch.nn.Linear(2, 2)
    assert len(parameters(layer, torch.nn.Sequential(layer))) == 2
