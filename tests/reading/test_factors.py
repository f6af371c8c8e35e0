"""Programs of many shapes, whose parents, plates and observed sites are known by hand."""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

from pyro_models.base.errors import UserError
from pyro_models.reading import factors
from pyro_models.reading.factors import read
from pyro_models.reading.printer import story


def normal(loc=0.0, scale=1.0):
    return dist.Normal(torch.as_tensor(loc, dtype=torch.get_default_dtype()), scale)


def nested(data):
    loc = pyro.sample("loc", normal())
    with pyro.plate("groups", 3):
        group = pyro.sample("group", normal(loc))
        with pyro.plate("people", 5):
            pyro.sample("x", normal(group), obs=data)


def crossed(data):
    rows, columns = pyro.plate("rows", 4, dim=-2), pyro.plate("columns", 3, dim=-1)
    with rows:
        a = pyro.sample("a", normal())
    with columns:
        b = pyro.sample("b", normal())
    with rows, columns:
        pyro.sample("x", normal(a + b), obs=data)


@config_enumerate
def mixture(data):
    shares = pyro.sample("shares", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("kinds", 2):
        locs = pyro.sample("locs", normal(0.0, 10.0))
    with pyro.plate("data", len(data)):
        kind = pyro.sample("kind", dist.Categorical(shares))
        pyro.sample("x", normal(locs[kind]), obs=data)


def masked(data, known):
    with pyro.plate("data", len(data)):
        z = pyro.sample("z", normal())
        with poutine.mask(mask=known):
            pyro.sample("x", normal(z), obs=data)


def partly_observed(data, known):
    with pyro.plate("data", len(data)):
        z = pyro.sample("z", normal())
        x = pyro.sample("x", normal(z), obs=data, obs_mask=known)
        pyro.sample("w", normal(x), obs=data)


def deterministic(data):
    z = pyro.sample("z", normal())
    square = pyro.deterministic("square", z**2)
    with pyro.plate("data", len(data)):
        pyro.sample("x", normal(square), obs=data)


def subsampled(data):
    w = pyro.sample("w", normal())
    with pyro.plate("data", len(data), subsample_size=2) as some:
        z = pyro.sample("z", normal(w))
        pyro.sample("x", normal(z), obs=data[some])


def chain(data):
    z = torch.zeros(())
    for t in pyro.markov(range(3)):
        z = pyro.sample(f"z_{t}", normal(z))
        pyro.sample(f"x_{t}", normal(z), obs=data[t])


class Regression(PyroModule):
    def __init__(self):
        super().__init__()
        self.scale = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)
        self.linear = PyroModule[nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, torch.ones(1, 2)).to_event(2))

    def forward(self, covariates, y=None):
        loc = self.linear(covariates)[..., 0]
        with pyro.plate("data", len(covariates)):
            return pyro.sample("y", dist.Normal(loc, self.scale), obs=y)


def no_plate(data):
    z = pyro.sample("z", normal())
    pyro.sample("x", normal(z), obs=data)


def no_latent(data):
    loc = pyro.param("loc", torch.zeros(()))
    with pyro.plate("data", len(data)):
        pyro.sample("x", normal(loc), obs=data)


def vector_and_factor(data):
    z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
    pyro.factor("penalty", -z.abs().sum())
    pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=data)


def by_control_flow_alone(data):
    z = pyro.sample("z", normal())
    w = pyro.sample("w", normal(1.0 if z.item() > 1.0 else 0.0))  # which a tag does not survive
    pyro.sample("x", normal(w), obs=data)


def branching(data):
    kind = pyro.sample("kind", dist.Bernoulli(torch.tensor(0.1)))
    pyro.sample("extra", normal()) if kind == 0 else None
    pyro.sample("x", normal(), obs=data)


def in_place_and_numpy(data):
    z = pyro.sample("z", normal())
    w = pyro.sample("w", normal())
    loc = torch.zeros(2)
    loc[0] = z
    loc[1] = float(w.numpy())
    pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=data)


def of_shape_alone(data):
    with pyro.plate("data", len(data)):
        z = pyro.sample("z", dist.Normal(data.new_zeros(len(data)), torch.ones_like(data)))
        pyro.sample("w", dist.Normal(torch.zeros_like(z), 1.0))
        pyro.sample("x", normal(z), obs=data)


def weight_of_zero(data):
    weight = pyro.param("weight", torch.zeros(()))
    z = pyro.sample("z", normal())
    pyro.sample("x", normal(weight * z), obs=data)


def one_by_one(data):
    w = pyro.sample("w", normal())
    for i in pyro.plate("data", 2):
        pyro.sample(f"x_{i}", normal(w), obs=data[i])


FEW, TRUE = torch.tensor([0.5, -1.0, 2.0, 0.1]), torch.tensor([True, False, True, True])
PROGRAMS = [  # program, arguments, site: parents / plates / marks, factorisation
    (
        nested,
        (torch.randn(5, 3),),
        {"loc": "//", "group": "loc/groups/", "x": "group/groups people/observed"},
        "p(x, loc, group) = p(loc) ∏_groups p(group | loc) ∏_people p(x | group)",
    ),
    (
        crossed,
        (torch.randn(4, 3),),
        {"a": "/rows/", "b": "/columns/", "x": "a b/rows columns/observed"},
        "p(x, a, b) = ∏_rows [p(a)] ∏_columns [p(b)] ∏_rows ∏_columns p(x | a, b)",
    ),
    (
        mixture,
        (FEW,),
        {"shares": "//", "locs": "/kinds/", "kind": "shares/data/enumerated, parallel", "x": "locs kind/data/observed"},
        "p(x, shares, locs, kind) = p(shares) ∏_kinds [p(locs)] ∏_data p(kind | shares) p(x | locs, kind)",
    ),
    (
        masked,
        (FEW, TRUE),
        {"z": "/data/", "x": "known z/data/observed; masked: 3 of 4 count"},
        "p(x, z | known) = ∏_data p(z) p(x | known, z)",
    ),
    (
        partly_observed,
        (FEW, TRUE),
        {
            "z": "/data/",
            "x_observed": "known z/data/observed; masked: 3 of 4 count",
            "x_unobserved": "known z/data/masked: 1 of 4 count",
            "x": "known x_observed x_unobserved/data/",
            "w": "x/data/observed",
        },
        None,
    ),
    (
        deterministic,
        (FEW,),
        {"z": "//", "square": "z//", "x": "square/data/observed"},
        "p(x, z) = p(z) ∏_data p(x | z)",
    ),
    (
        subsampled,
        (FEW,),
        {"w": "//", "z": "w/data/counts 2 times", "x": "z/data/observed; counts 2 times"},
        "p(x, w, z) = p(w) ∏_data p(z | w) p(x | z)",
    ),
    (
        chain,
        (FEW,),
        {
            "z_0": "//",
            "x_0": "z_0//observed",
            "z_1": "z_0//",
            "x_1": "z_1//observed",
            "z_2": "z_1//",
            "x_2": "z_2//observed",
        },
        "p(x_0, x_1, x_2, z_0, z_1, z_2) = p(z_0) p(x_0 | z_0) p(z_1 | z_0) p(x_1 | z_1) p(z_2 | z_1) p(x_2 | z_2)",
    ),
    (
        Regression,
        (torch.randn(4, 2), FEW),
        {"linear.weight": "//", "y": "covariates linear.weight/data/observed"},
        "p(y, linear.weight | covariates) = p(linear.weight) ∏_data p(y | covariates, linear.weight)",
    ),
    (no_plate, (FEW[0],), {"z": "//", "x": "z//observed"}, "p(x, z) = p(z) p(x | z)"),
    (no_latent, (FEW,), {"x": "/data/observed"}, "p(x) = ∏_data p(x)"),
    (
        vector_and_factor,
        (FEW[:2],),
        {"z": "//", "penalty": "z//", "x": "z//observed"},
        "p(x, z) ∝ p(z) exp penalty(z) p(x | z)",
    ),
    (
        by_control_flow_alone,
        (FEW[0],),
        {"z": "//", "w": "z//", "x": "w//observed"},
        "p(x, z, w) = p(z) p(w | z) p(x | w)",
    ),
    (
        in_place_and_numpy,
        (FEW[:2],),
        {"z": "//", "w": "//", "x": "z w//observed"},
        "p(x, z, w) = p(z) p(w) p(x | z, w)",
    ),
    (
        of_shape_alone,
        (FEW,),
        {"z": "/data/", "w": "/data/", "x": "z/data/observed"},
        "p(x, z, w) = ∏_data p(z) p(w) p(x | z)",
    ),
    (weight_of_zero, (FEW[0],), {"z": "//", "x": "z//observed"}, "p(x, z) = p(z) p(x | z)"),
    (
        one_by_one,
        (FEW,),
        {"w": "//", "x_0": "w//observed; one by one in plate data", "x_1": "w//observed; one by one in plate data"},
        "p(x_0, x_1, w) = p(w) p(x_0 | w) p(x_1 | w)",
    ),
]


@pytest.mark.parametrize(
    ("program", "args", "sites", "factorisation"), PROGRAMS, ids=lambda p: getattr(p, "__name__", None)
)
def test_the_factors_are_those_found_by_hand(program, args, sites, factorisation):
    program = program() if isinstance(program, type) else program
    told = story(program, *(arg.double() if arg.is_floating_point() else arg for arg in args))
    (found,) = told.programs.values()
    read_off = {
        name: "/".join([" ".join(one.parents), " ".join(plate.name for plate in one.plates), "; ".join(one.marks)])
        for name, one in found.factors.items()
        if one.kind != "input"
    }
    assert read_off == sites
    assert factorisation is None or told.factorisation == (factorisation,)


def test_a_site_that_is_there_for_some_values_alone_depends_on_them():
    found = read(branching, [torch.tensor(0.0)], {}).factors
    assert {name: factor.parents for name, factor in found.items()} == {"kind": (), "extra": ("kind",), "x": ()}


def test_a_program_that_cannot_be_followed_is_read_by_other_draws(monkeypatch):
    class Refuses(factors.Tracking):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            raise RuntimeError("not here")

    monkeypatch.setattr(factors, "Tracking", Refuses)
    assert {n: f.parents for n, f in read(nested, [torch.randn(5, 3)], {}).factors.items()} == {
        "loc": (),
        "group": ("loc",),
        "x": ("group",),
    }


def test_where_no_runs_are_left_a_value_that_was_looked_at_is_a_possible_parent(monkeypatch):
    monkeypatch.setattr(factors, "RUNS", 0)
    found = read(by_control_flow_alone, [torch.tensor(0.0)], {}).factors
    assert {n: (f.parents, f.possible) for n, f in found.items()} == {
        "z": ((), ()),
        "w": ((), ("z",)),
        "x": (("w",), ("z",)),
    }
    assert "w ~ Normal(loc, scale) possibly z" in story(by_control_flow_alone, torch.tensor(0.0)).process


def test_plates_and_shapes():
    (found,) = story(subsampled, FEW.double()).programs.values()
    (plate,) = found.factors["x"].plates
    assert (plate.name, plate.size, plate.drawn) == ("data", 4, 2)
    assert found.factors["x"].shapes == ((2,), ())
    (found,) = story(vector_and_factor, FEW[:2].double()).programs.values()
    assert found.factors["z"].shapes == ((), (2,))
    assert found.factors["z"].distribution == "MultivariateNormal(loc, covariance_matrix)"


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: dist.Bernoulli(logits=torch.zeros(())), "Bernoulli(logits)"),
        (lambda: dist.Bernoulli(torch.tensor(0.5)), "Bernoulli(probs)"),
        (lambda: dist.OneHotCategorical(logits=torch.zeros(3)), "OneHotCategorical(logits)"),
        (lambda: dist.OneHotCategorical(torch.ones(3) / 3), "OneHotCategorical(probs)"),
        (lambda: dist.Beta(torch.ones(()), torch.ones(())), "Beta(concentration1, concentration0)"),
        (lambda: dist.LogNormal(torch.zeros(2), 1.0).to_event(1), "LogNormal(loc, scale)"),
    ],
)
def test_distributions_are_shown_with_the_parameters_they_were_made_with(make, shown):
    assert read(lambda: pyro.sample("z", make()), [], {}).factors["z"].distribution == shown


def test_an_argument_is_called_by_the_site_that_it_is_observed_at():
    def guide(data):
        with pyro.plate("data", len(data)):
            pyro.sample("z", normal(0.3 * data))

    def model(data):
        with pyro.plate("data", len(data)):
            pyro.sample("x", normal(pyro.sample("z", normal())), obs=data)

    told = story(model, FEW.double(), guide=guide)
    assert told.programs["guide q"].factors["z"].parents == ("x",)
    assert told.factorisation == ("p(x, z) = ∏_data p(z) p(x | z)", "q(z | x) = ∏_data q(z | x)")
    assert told.objective == ("ELBO = E_q[log p(x, z) − log q(z | x)] ≤ log p(x)",)


def test_data_that_predict_themselves_stay_an_argument():
    def autoregressive(x):
        pyro.sample("x", dist.Normal(torch.cat([torch.zeros(1), x[:-1]]), 1.0).to_event(1), obs=x)

    (found,) = story(autoregressive, FEW.double()).programs.values()
    assert found.factors["x"].parents == ("input x",)


def test_nothing_is_left_of_the_runs():
    norm = nn.BatchNorm1d(2)
    network = nn.Sequential(nn.Linear(2, 2), norm, nn.Dropout(0.5))

    def model(x):
        pyro.module("network", network)
        weight = pyro.param("weight", lambda: torch.randn(2))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample(
                "x", dist.Normal(network(z) * weight + random.random() + np.random.rand(), 1.0).to_event(1), obs=x
            )

    guide = AutoNormal(model)
    pyro.param("mine", torch.ones(()))
    mine = pyro.get_param_store()._params["mine"]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[2]
    told = story(model, torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), guide=guide)
    assert told.programs["story p"].factors["x"].parents == ("z",)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (random.getstate(), np.random.get_state()[2]) == state[1:]
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert pyro.get_param_store()._params["mine"] is mine
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert list(guide.parameters()) == []  # it is not set up


def test_wrong_arguments_and_programs_are_told_in_a_line():
    with pytest.raises(UserError, match=r"nested takes \(data\): missing a required argument: 'data'"):
        story(nested)
    with pytest.raises(UserError, match=r"Regression takes .*: got an unexpected keyword argument 'z'"):
        story(Regression(), torch.zeros(2), z=torch.zeros(2))
    with pytest.raises(UserError, match="chain cannot be read: it raises IndexError: index 1 is out of bounds"):
        story(chain, torch.zeros(1))
    with pytest.raises(UserError, match="nested cannot be read: it raises"):
        story(no_plate, torch.zeros(2), guide=nested)


def test_a_parameter_counts_once_however_often_it_is_read():
    def model():
        w = pyro.param("w", torch.zeros(3)) + pyro.param("w")
        pyro.sample("x", dist.Normal(w, 1.0).to_event(1))

    assert read(model, (), {}).parameters == {"w": 3}
