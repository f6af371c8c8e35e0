"""Programs of kinds that are easily misread: what is observed, what is a function, what counts, and how often."""

from dataclasses import dataclass

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal, AutoNormalizingFlow
from pyro.infer.reparam import DiscreteCosineReparam, HaarReparam, LocScaleReparam, SplitReparam, StableReparam
from pyro.nn import PyroModule, pyro_method

from pyro_models.base.errors import UserError
from pyro_models.reading import Difference, story
from pyro_models.reading.folding import folded

DATA, OTHER = torch.tensor([0.3, -1.2, 0.8, 0.1]), torch.tensor([1.0, 2.0, 0.5, -0.5])


def normal(loc=0.0, scale=1.0):
    return dist.Normal(torch.as_tensor(loc), scale)


@pytest.mark.parametrize(
    ("observed", "factorisation"),
    [
        (lambda y, x, known, w: y[known], "p(y_site, w | x) = p(w) ∏_data p(y_site | x, w)"),
        (lambda y, x, known, w: (y - y.mean()) / y.std(), "p(y_site, w | x) = p(w) ∏_data p(y_site | x, w)"),
        (lambda y, x, known, w: y - x, "p(y_site, w | x) = p(w) ∏_data p(y_site | x, w)"),
        (lambda y, x, known, w: torch.where(known, y, 0.0), "p(y_site, w | x) = p(w) ∏_data p(y_site | x, w)"),
        (lambda y, x, known, w: y - w * x, "p(y, w | x) = p(w) ∏_data p(y | x, w)"),
        (lambda y, x, known, w: y * w, "p(y_site, w | y, x) = p(w) ∏_data p(y_site | y, x, w)"),
    ],
)
def test_data_are_what_an_observed_value_is_made_of_and_no_index_mask_or_offset(observed, factorisation):
    def model(y, x, known):
        w = pyro.sample("w", normal())
        value = observed(y, x, known, w)
        with pyro.plate("data", len(value)):
            pyro.sample("y_site", normal(w + x.sum()), obs=value)

    def guide(y, x, known):
        pyro.sample("w", normal(x.sum()))

    read = story(model, DATA, OTHER, torch.tensor([True, False, True, True]), guide=guide)
    assert read.factorisation == (factorisation, "q(w | x) = q(w | x)")


def test_a_prior_that_looks_at_the_data_is_given_the_argument():
    def model(y):
        loc = pyro.sample("loc", normal(y.mean()))
        with pyro.plate("data", len(y)):
            pyro.sample("obs", normal(loc), obs=y)

    read = story(model, DATA)
    assert read.factorisation == ("p(obs, loc | y) = p(loc | y) ∏_data p(obs | loc)",)
    assert "svg" in read.svg


def test_parameters_of_a_reparameterised_site_reach_what_it_was_through_a_function():
    def schools(y):
        mu, tau = pyro.sample("mu", normal()), pyro.sample("tau", dist.HalfCauchy(1.0))
        with pyro.plate("schools", len(y)):
            theta = pyro.sample("theta", normal(mu, tau))
            pyro.sample("y", normal(theta), obs=y)

    def walk(y):
        steps = pyro.sample("steps", normal().expand([4]).to_event(1))
        pyro.sample("y", normal(steps.cumsum(-1)).to_event(1), obs=y)

    def heavy(y):
        tail, spread = pyro.sample("tail", dist.Uniform(1.0, 2.0)), pyro.sample("spread", dist.Gamma(2.0, 2.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Stable(tail, 0.0, spread, 0.0), obs=y)

    apart = story(poutine.reparam(schools, {"theta": LocScaleReparam(0.0)}), DATA)
    assert apart.factorisation == (
        "p(y, mu, tau, theta_decentered) = p(mu) p(tau) ∏_schools p(theta_decentered) p(y | mu, tau, theta_decentered)",
    )
    assert "theta = f(mu, tau, theta_decentered) (deterministic)" in apart.process
    assert apart.objective[0].endswith("≤ log p(y)")
    between = story(poutine.reparam(schools, {"theta": LocScaleReparam()}), DATA)
    assert between.programs["story p"].factors["theta_decentered"].parents == ("mu", "tau")
    for reparam, site in [(DiscreteCosineReparam, "steps_dct"), (HaarReparam, "steps_haar")]:
        read = story(poutine.reparam(walk, {"steps": reparam()}), DATA)
        assert read.factorisation == (f"p(y, {site}) = p({site}) p(y | {site})",)
    factors = story(poutine.reparam(heavy, {"y": StableReparam()}), DATA).programs["story p"].factors
    noise = [name for name in factors if name.startswith("y_")]
    assert len(noise) == 4
    assert all(factors[name].parents == () for name in noise)
    assert factors["y"].parents == ("tail", "spread", *noise)


@pytest.mark.parametrize("by_handler", [True, False])
def test_a_mask_has_parents_wherever_it_is_set(by_handler):
    def model(x):
        with pyro.plate("data", len(x)):
            here = pyro.sample("here", dist.Bernoulli(0.5))
            fn = normal() if by_handler else normal().expand(here.shape).mask(here.bool())
            with poutine.mask(mask=here.bool() if by_handler else True):
                where = pyro.sample("where", fn)
            pyro.sample("x", normal(here * where), obs=x)

    read = story(model, DATA)
    assert read.factorisation == ("p(x, here, where) = ∏_data p(here) p(where | here) p(x | here, where)",)
    assert "masked" in " ".join(read.programs["story p"].factors["where"].marks)


def test_the_bound_sums_over_what_is_enumerated_in_the_model_and_names_what_is_missing():
    @config_enumerate
    def mixture(x):
        locs = pyro.sample("locs", normal().expand([2]).to_event(1))
        with pyro.plate("data", len(x)):
            label = pyro.sample("label", dist.Categorical(torch.ones(2) / 2))
            pyro.sample("x", normal(locs[label]), obs=x)

    read = story(mixture, DATA, guide=AutoDelta(poutine.block(mixture, expose=["locs"])))
    assert read.objective == ("ELBO = E_q[log Σ_label p(x, locs, label) − log q(locs)] ≤ log p(x)",)
    assert r"\sum_{\mathrm{label}} p(x" in read.latex
    assert "x ~ Normal(locs[label], 1)" in read.process

    def guide(x):
        pyro.sample("scale", normal())

    lacking = story(mixture, DATA, guide=guide)
    assert lacking.objective == ()
    assert lacking.note == "no ELBO: the guide lacks locs; the guide has scale, not latent in the model"


def test_a_factor_makes_no_density():
    def model(x):
        z = pyro.sample("z", normal())
        pyro.factor("penalty", -z.abs())
        pyro.sample("x", normal(z), obs=x)

    read = story(model, DATA[0])
    assert read.objective == ("ELBO = E_q[log p(x, z) + penalty(z) − log q(z | x)]",)
    assert "not normalised" in read.note


def test_what_does_not_count_is_in_no_density():
    def model(x):
        z = pyro.sample("z", normal())
        with poutine.mask(mask=False):
            pyro.sample("x", normal(z), obs=x)

    read = story(model, DATA[0])
    assert read.factorisation == ("p(z) = p(z)",)
    assert "x ~ Normal(z, 1) (observed, masked: does not count)" in read.process


def test_methods_of_modules_are_called_with_their_own_arguments():
    class Line(PyroModule):
        @pyro_method
        def model(self, x):
            w = pyro.sample("w", normal())
            with pyro.plate("data", len(x)):
                pyro.sample("x", normal(w), obs=x)

    process = gp.models.GPRegression(DATA, OTHER, gp.kernels.Sum(gp.kernels.RBF(1), gp.kernels.Linear(1)))
    assert story(Line().model, DATA).factorisation == ("p(x, w) = p(w) ∏_data p(x | w)",)
    assert "(kernel RBF + Linear; observed)" in story(process.model, guide=process.guide).process


@pytest.mark.parametrize(
    "shape_of",
    [
        lambda z: z.new_tensor(0.0),
        lambda z: torch.zeros(()).expand_as(z),
        lambda z: torch.zeros(()).type_as(z),
        lambda z: torch.zeros(()).to(z),
        lambda z: torch.zeros(()).reshape_as(z),
        lambda z: torch.full_like(z, 2.0),
        lambda z: torch.rand_like(z),
        lambda z: torch.zeros(z.shape, dtype=z.dtype, device=z.device),
    ],
)
def test_what_takes_a_shape_or_a_type_takes_no_value(shape_of):
    def model():
        z = pyro.sample("z", normal())
        pyro.sample("a", normal(shape_of(z)))

    assert story(model).programs["story p"].factors["a"].parents == ()


def test_odd_sites_are_told_or_refused_in_a_line():
    class Coin(dist.Distribution):
        has_enumerate_support = False

        def sample(self):
            return torch.tensor(1.0)

        def log_prob(self, value):
            return torch.tensor(0.5).log()

    def sizeless(x):
        with pyro.plate("data"):
            pyro.sample("x", dist.Normal(torch.zeros(len(x)), 1.0), obs=x)

    def twice():
        pyro.sample("z", normal())
        pyro.sample("z", normal())

    assert "x ~ Coin()" in story(lambda: pyro.sample("x", Coin())).process
    assert "for each of 4 in plate data" in story(sizeless, DATA).process
    with pytest.raises(UserError, match="twice cannot be read: two sites are named `z`"):
        story(twice)


def test_tensors_within_arguments_are_named_as_one_gets_at_them():
    def model(config, *rest):
        pyro.sample("a", normal(config["units"][1]))
        pyro.sample("b", normal(rest[0]))

    factors = story(model, {"units": [DATA[0], DATA[1]], "n": 3}, DATA[2]).programs["story p"].factors
    assert factors["a"].parents == ('config["units"][1]',)
    assert factors["b"].parents == ("rest[0]",)


def test_tensors_within_dataclasses_are_named_as_one_gets_at_them():
    @dataclass
    class Batch:
        y: torch.Tensor
        x: torch.Tensor

    def model(batch):
        w = pyro.sample("w", normal())
        with pyro.plate("data", len(batch.y)):
            pyro.sample("obs", normal(w * batch.x), obs=batch.y)

    assert story(model, Batch(DATA, OTHER)).factorisation == ("p(obs, w | batch.x) = p(w) ∏_data p(obs | batch.x, w)",)


def test_a_prior_without_a_density_and_a_density_beside_a_value_are_factors():
    def model(y):
        z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), (4,)))
        pyro.sample("obs", normal(z).to_event(1), obs=y)

    def split(y):
        z = pyro.sample("z", normal(torch.zeros(4)).to_event(1))
        pyro.sample("obs", normal(z).to_event(1), obs=y)

    assert story(model, DATA).factorisation == ("p(obs, z) ∝ p(obs | z)",)
    read = story(poutine.reparam(split, {"z": SplitReparam([2, 2], -1)}), DATA)
    assert read.factorisation == (
        "p(obs, z_split_0, z_split_1) ∝ exp z(z_split_0, z_split_1) p(obs | z_split_0, z_split_1)",
    )


def test_automatic_guides_name_the_models_arguments_and_sites():
    def model(x, known):
        loc = pyro.sample("loc", normal())
        scale = pyro.sample("scale", dist.HalfCauchy(1.0))
        with pyro.plate("data", len(x)), poutine.mask(mask=known):
            pyro.sample("x", normal(loc, scale), obs=x)

    arguments = DATA, torch.tensor([True, True, False, True])
    joint = story(model, *arguments, guide=AutoDiagonalNormal(model))
    assert joint.factorisation[1] == "q(loc, scale) = q(loc, scale)"
    assert "loc, scale ~ Normal(AutoDiagonalNormal.loc, AutoDiagonalNormal.scale) (scale by exp)" in joint.process
    single = story(model, *arguments, guide=AutoNormal(model))
    assert single.factorisation[1] == "q(loc, scale) = q(loc) q(scale)"
    flow = story(model, *arguments, guide=AutoNormalizingFlow(model, lambda size: transforms.planar(size)))
    assert "loc, scale ~ Normal(0, 1) → Planar" in flow.process


def test_distributions_show_numbers_names_layers_components_and_what_is_computed_from_what():
    couplings, decoder = [transforms.affine_autoregressive(2) for _ in range(3)], torch.nn.Linear(2, 2)

    def model(x):
        weights = pyro.param("weights", torch.tensor([0.2, 0.8]), constraint=dist.constraints.simplex)
        loc = pyro.sample("loc", normal(torch.zeros(2), torch.tensor([0.1, 2.0])).to_event(1))
        pyro.sample("flow", dist.TransformedDistribution(normal().expand([2]).to_event(1), couplings))
        components = dist.Normal(loc, torch.ones(2))
        pyro.module("decoder", decoder)
        pyro.sample("y", dist.Normal(decoder(loc), weights.log().exp() + loc.exp()).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=x)

    lines = [line.split("  [")[0].strip() for line in story(model, DATA).process.splitlines()]
    assert "loc ~ Normal(0, [0.1, 2])" in lines
    assert "flow ~ Normal(0, 1) → 3 × AffineAutoregressive" in lines
    assert "y ~ Normal(loc(loc; decoder), scale(loc; weights))" in lines
    assert "x ~ mixture of 2 Normal(loc, 1) by Categorical(logits(weights)) (observed)" in " ".join(lines)


def test_a_number_that_another_branch_would_change_is_not_shown():
    def model():
        z = pyro.sample("z", normal())
        pyro.sample("x", normal(1.0 if z > 0 else 0.0))

    assert "x ~ Normal(loc, scale) given z" in story(model).process


@pytest.mark.parametrize("steps", [20, 100])
def test_a_long_chain_is_read_in_one_go_and_told_in_a_few_lines(steps):
    calls = []

    def chain(x):
        calls.append(1)
        scale = pyro.sample("scale", dist.Gamma(2.0, 2.0))
        z = pyro.sample("z_0", normal())
        for t in pyro.markov(range(1, len(x) + 1)):
            z = pyro.sample(f"z_{t}", normal(1 - z, scale))
            pyro.sample(f"x_{t}", normal(z), obs=x[t - 1])

    read = story(chain, torch.zeros(steps))
    assert len(calls) == 2
    assert read.factorisation == (
        f"p(x_1, …, x_{steps}, scale, z_0, …, z_{steps}) = p(scale) p(z_0) "
        f"∏_{{t=1..{steps}}} p(z_t | scale, z_{{t-1}}) p(x_t | z_t)",
    )
    assert len(read.text.splitlines()) < 20
    assert rf"\prod_{{t=1}}^{{{steps}}} p(z_{{t}} \mid" in read.latex


def test_loops_fold_within_plates_and_within_loops():
    def model(x):
        for i in pyro.plate("rows", 5):
            z = pyro.sample(f"z_{i}", normal())
            with pyro.plate(f"columns_{i}", 3):
                for j in range(4):
                    z = pyro.sample(f"y_{i}_{j}", normal(z))

    program, members = folded(story(model, DATA).programs["story p"])
    assert list(program.factors) == ["z_t", "y_t_0", "y_t_s"]
    assert program.factors["y_t_s"].parents == ("y_t_{s-1}",)
    assert [plate.name for plate in program.factors["y_t_s"].plates] == ["t", "columns_t", "s"]
    assert members["y_3_2"] == "y_t_s"


def test_two_versions_differ_in_some_lines():
    def model(x, deep):
        z = pyro.sample("z", normal())
        if deep:
            z = pyro.sample("w", normal(z))
        pyro.sample("x", normal(z), obs=x)

    difference = Difference(story(model, DATA[0], False), story(model, DATA[0], True))
    assert [line for line in str(difference).splitlines() if line[:1] in ("+", "-")] == [
        "-   x ~ Normal(z, 1) (observed)  [] []",
        "+   w ~ Normal(z, 1)  [] []",
        "+   x ~ Normal(w, 1) (observed)  [] []",
        "- p(x, z) = p(z) p(x | z)",
        "+ p(x, z, w) = p(z) p(w | z) p(x | w)",
        "- ELBO = E_q[log p(x, z) − log q(z | x)] ≤ log p(x)",
        "+ ELBO = E_q[log p(x, z, w) − log q(z, w | x)] ≤ log p(x)",
    ]
    assert "color: #117733" in difference.html
