"""A step as a graph: the bits of the step as it is, for every estimator, term, schedule and state, or a refusal."""

import math
import random
import shutil
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

from benchmarks import peers
from benchmarks.timing import in_turn
from pyro_models.objectives import ESTIMATORS, Scheduled, entropy, marginal_kl, regularised, relaxed, scaled, vat
from pyro_models.training import steps
from pyro_models.training.loop import fit

EPOCHS = 3


class Mixture(nn.Module):
    """y ~ OneHot, z ~ Normal given y, x ~ Normal given z; and its guide, with dropout and batch norm."""

    def __init__(self):
        super().__init__()
        self.component, self.decoder = nn.Linear(3, 2), nn.Linear(2, 4)
        self.classifier = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 3))
        self.of_x, self.of_y = nn.Linear(4, 4), nn.Linear(3, 4)
        self.register_buffer("logits", torch.zeros(3))

    def model(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=self.logits))
            z = pyro.sample("z", dist.Normal(self.component(y), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

    def classify(self, x):
        return dist.OneHotCategorical(logits=self.classifier(x))

    def guide(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", self.classify(x))
            loc, log_scale = (self.of_x(x) + self.of_y(y)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Gaussian(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2, 4), nn.Linear(4, 4)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


@pytest.fixture
def x():
    return torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def warnings_of(monkeypatch):
    """What is logged; torch's own tracing logs so much that `caplog` would take most of a test's time."""
    logged: list[str] = []
    monkeypatch.setattr(steps.log, "warning", lambda words, *args: logged.append(words % args))
    return lambda: logged


def trained(kind, data, objective_of, compile, **options):
    """The terms of each epoch, and the state of the pair afterwards, from the same start each time."""
    torch.manual_seed(0)
    pair = kind()
    options = {"epochs": EPOCHS, "learning_rate": 0.05, "compile": compile} | options
    epochs = [epoch.terms for epoch in fit(pair.model, pair.guide, data, objective_of(pair), **options)]
    return epochs, [value.clone() for value in pair.state_dict().values()]


def assert_same_bits(ours, theirs):
    assert ours[0] == theirs[0]
    assert all(torch.equal(*values) for values in zip(ours[1], theirs[1], strict=True))


def moving(pair):
    """A falling temperature, a warm-up that ends, and terms that share dropout and noise, one of rising weight."""
    terms = {"marginal_kl": (0.3, marginal_kl), "vat": (1.0, partial(vat, radius=0.5))}
    bound = partial(ESTIMATORS["mean-field"], particles=2)
    return Scheduled(
        lambda progress: regularised(
            scaled(relaxed(bound, 1.0 - 0.5 * progress), {"z": min(1.0, 2 * progress)}),
            terms | {"entropy": (0.1 + progress, entropy)},
            pair.classify,
        )
    )


STEPS = {
    "enum": (Mixture, lambda pair: ESTIMATORS["enum"]),
    "score function": (Mixture, lambda pair: ESTIMATORS["graph"]),
    "terms and schedules": (Mixture, moving),
    "dreg": (Gaussian, lambda pair: partial(ESTIMATORS["dreg"], particles=3)),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_graph_gives_the_very_bits_of_the_step(name, x, warnings_of):
    kind, objective_of = STEPS[name]
    sizes = [8, 8, 4] if name == "dreg" else [10, 10]  # the last batch may be smaller
    batches = [{"x": part} for part in x.split(sizes)]
    assert_same_bits(*(trained(kind, batches, objective_of, way) for way in ("off", "graph")))
    assert warnings_of() == []


def test_going_on_with_graphs_is_bit_identical_to_never_stopping(x):
    """Also where what the pair holds was changed at the stop, which the graphs of the epochs before did not have."""

    def run(*stops):
        torch.manual_seed(0)
        pair = Mixture()
        optimizer = torch.optim.Adam(pair.parameters(), lr=0.05)
        options = {"batch_size": 10, "epochs": 4, "compile": "graph"}
        epochs = fit(pair.model, pair.guide, {"x": x}, "graph", optimizer, **options)
        for number in range(4):
            if number in stops:
                epochs = fit(pair.model, pair.guide, {"x": x}, "graph", optimizer, done=number, **options)
            if number == 2:
                pair.classifier[3].p = 0.9
            next(epochs)
        return [], list(pair.state_dict().values())

    assert_same_bits(run(), run(1, 2))


def test_parameters_of_the_store_and_of_pyros_guides_are_in_the_graph(x):
    def model(x):
        loc = pyro.param("loc", torch.zeros(4))
        scale = pyro.param("scale", torch.ones(()), constraint=dist.constraints.positive)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc + z, scale).to_event(1), obs=x)

    def run(way):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        guide = AutoNormal(model)
        epochs = [epoch.terms for epoch in fit(model, guide, {"x": x}, epochs=4, learning_rate=0.1, compile=way)]
        return epochs, [*guide.median().values(), pyro.param("loc").detach(), pyro.param("scale").detach()]

    assert_same_bits(run("off"), run("graph"))


class Branches(Gaussian):
    def guide(self, x):
        super().guide(x if x.mean() < 0 else -x)


class Counts(Gaussian):
    steps = 0

    def guide(self, x):
        self.steps += 1
        super().guide(x * self.steps)


class Draws(Gaussian):
    def guide(self, x):
        super().guide(x * random.random())


class Exports(Gaussian):
    def guide(self, x):
        super().guide(x * float(x.numpy().max()))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Branches, "reads a value"),
        (Exports, "reads a value"),
        (Counts, "changes from step to step"),
        (Draws, "`random`"),
    ],
)
def test_what_has_no_graph_is_named_and_runs_as_it_is(kind, reason, x, warnings_of):
    runs = []
    for way in ("off", "graph"):
        random.seed(0)
        runs.append(trained(kind, {"x": x}, lambda pair: "trace", way, batch_size=10))
    assert [reason in words for words in warnings_of()] == [True]
    assert kind in (Counts, Draws) or assert_same_bits(*runs) is None  # these count, or draw, the first steps twice


def test_short_runs_are_not_tried(x, warnings_of, monkeypatch):
    """A graph pays only where the steps to come take longer than making it; then it is tried, and that is said."""
    runs = [trained(Gaussian, {"x": x}, lambda pair: "trace", way, epochs=30) for way in ("off", "auto")]
    assert_same_bits(*runs)
    assert warnings_of() == []
    monkeypatch.setattr(steps, "WORTHWHILE", {"plain": 0.0, "graph": math.inf})
    assert_same_bits(runs[0], trained(Gaussian, {"x": x}, lambda pair: "trace", "auto", epochs=30))
    assert ["a graph: " in words for words in warnings_of()] == [True]


@pytest.mark.parametrize(
    ("seconds", "way", "said"),
    [
        (
            [1.0, 0.9, 0.7],
            "compiled",
            ["steps run as a graph: 900 ms in", "as a graph and compiled: 700 ms in place of 900"],
        ),
        ([1.0, 1.0, 0.7], "compiled", ["as a graph and compiled: 700 ms in place of 1e+03"]),
        (
            [1.0, 0.5, 0.49],
            "graph",
            ["steps run as a graph: 500 ms in", "not compiled: a step takes 490 ms in place of 500"],
        ),
        ([1.0, 0.99, 0.99], "plain", ["not compiled: a step takes 990 ms in place of 1e+03"]),
    ],
)
def test_the_fastest_of_three_ways_is_taken(seconds, way, said, x, warnings_of, monkeypatch):
    """A graph that saves nothing may still do so compiled, as where the arithmetic takes longer than Python."""
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    monkeypatch.setattr(steps, "WORTHWHILE", {"plain": 0.0, "graph": 0.0})
    times, made = iter(seconds), []
    monkeypatch.setattr(steps, "median", lambda trial: next(times))
    monkeypatch.setattr(steps, "TRIAL", 2)
    begin = steps.Steps.begin_epoch
    monkeypatch.setattr(steps.Steps, "begin_epoch", lambda self: made.append(self) or begin(self))
    trained(Gaussian, {"x": x}, lambda pair: "trace", "auto", batch_size=10, epochs=5)
    assert made[-1].way == way
    words = warnings_of()
    assert len(words) == len(said)
    for ours, part in zip(words, said, strict=True):
        assert part in ours


@pytest.mark.parametrize("make", [torch.optim.Adam, partial(torch.optim.Adam, weight_decay=0.1), torch.optim.SGD])
def test_a_compiled_step_holds_a_plain_adam(make, x, monkeypatch, warnings_of):
    """Without Inductor, which would take a minute and change nothing but the rounding."""
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    taken = []

    def run(way, *stops):
        torch.manual_seed(0)
        pair = Gaussian()
        optimizer, losses = make(pair.parameters(), lr=0.01), []
        for number in range(4):
            if number == 0 or number in stops:
                options = {"epochs": 4, "batch_size": 10, "compile": way, "done": number}
                options["learning_rate"] = lambda progress: 0.01 * (1.0 - progress)
                epochs = fit(pair.model, pair.guide, {"x": x}, "trace", optimizer, **options)
            losses.append(next(epochs).terms["loss"])
        kept = [value for state in optimizer.state.values() for value in state.values() if value is not None]
        return losses, [*(value.detach().clone() for value in pair.parameters()), *kept]

    plain, compiled = run("off"), run("on")
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: taken.append(self) or step(self))
    assert_same_bits(compiled, run("on", 2))
    assert len(taken) == {torch.optim.Adam: 4, torch.optim.SGD: 0}.get(make, 8)  # 4: to compare with, after each start
    assert warnings_of() == []
    assert compiled[0] == pytest.approx(plain[0])
    for ours, theirs in zip(compiled[1], plain[1], strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_steps_round_otherwise_and_go_on_to_the_same_bits(x, warnings_of):
    def run(way, *stops):
        torch.manual_seed(0)
        pair = Mixture()
        optimizer, losses = torch.optim.Adam(pair.parameters(), lr=0.01), []
        for number in range(10):
            if number == 0 or number in stops:
                options = {"epochs": 10, "batch_size": 20, "compile": way, "done": number}
                epochs = fit(pair.model, pair.guide, {"x": x}, moving(pair), optimizer, **options)
            losses.append(next(epochs).terms["loss"])
        return losses, list(pair.state_dict().values())

    plain, compiled = run("off"), run("on")
    assert warnings_of() == []
    assert compiled[0] == pytest.approx(plain[0], rel=1e-5)
    assert_same_bits(compiled, run("on", 4))


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_step_takes_about_as_long_as_one_written_by_hand():
    torch.set_default_dtype(torch.float32)  # the fixture of all tests sets it back
    net = peers.net_of("article", steps=10)
    loops = {way: peers.ours(net, way) for way in ("off", "on")} | {"by hand": peers.by_hand(net)}
    seconds = {name: min(cpu for _, cpu in each) for name, each in in_turn(loops, rounds=5).items()}
    assert seconds["off"] < 1.6 * seconds["by hand"]
    assert seconds["on"] < 1.3 * seconds["by hand"]
