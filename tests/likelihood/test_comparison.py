"""The comparison of estimators, where bounds, variances and ratios are known."""

from functools import partial

import pytest
import torch

from pyro_models.likelihood.comparison import Comparison, Tally, compare, comparison_table, parameter_groups
from pyro_models.objectives import enum, graph, iwae, mean_field, relaxed, rws
from tests.linear_gaussian import ExactGuide, LinearGaussian
from tests.linear_mixture import linear_mixture


def test_the_moments_are_those_of_the_draws():
    weight = torch.nn.Parameter(torch.zeros(5))
    tally, draws = Tally({"part": [weight]}), torch.randn(40, 5) + torch.arange(5.0)
    for draw in draws:
        tally.add(0.0, [draw])
    signal, noise = tally.moments("part")
    variance = draws.var(0).sum()
    assert noise == pytest.approx(float(variance))
    assert signal == pytest.approx(float(draws.mean(0).square().sum() - variance / 40))


def test_the_groups_are_all_parameters_by_part():
    pair = linear_mixture()
    groups = dict(parameter_groups(*pair))
    assert list(groups) == ["component", "decoder", "classifier", "encoder"]
    assert sum(map(len, groups.values())) == sum(len(list(half.parameters())) for half in pair)


def test_a_comparison_repeats_itself_and_leaves_the_pair_as_it_is():
    pair = linear_mixture()
    x = pair[0](batch=20).detach()
    before = torch.cat([p.detach().flatten() for half in pair for p in half.parameters()])
    both = [compare(*pair, {"x": x}, {"enum": enum}, draws=5)["enum"] for _ in range(2)]
    assert both[0].bound == both[1].bound
    assert both[0].variance == both[1].variance
    after = torch.cat([p.detach().flatten() for half in pair for p in half.parameters()])
    assert torch.equal(before, after)
    assert pair[0].training


class Nested(torch.nn.Module):
    """A story as a part of another module, which gives its parameters a group."""

    def __init__(self, story):
        super().__init__()
        self.story = story

    def forward(self, x):
        return self.story(x)


def test_at_the_exact_posterior_the_bound_has_no_error():
    model = LinearGaussian()
    x = model(batch=30).detach()
    rows = compare(Nested(model), ExactGuide(model), {"x": x}, {"rws": partial(rws, particles=3)}, draws=6)
    assert rows["rws"].bound == pytest.approx(model.evidence(x).mean().item())
    assert rows["rws"].error < 1e-9


def test_the_sum_over_categories_is_less_noisy_than_drawing_them():
    pair = linear_mixture()
    x = pair[0](batch=50).detach()
    estimators = {"mean-field": relaxed(mean_field, 0.5), "graph": graph, "enum": enum}
    comparisons = compare(*pair, [{"x": x}, {"x": x + 0.1}], estimators, draws=30)
    assert comparisons["enum"].variance["classifier"] < comparisons["graph"].variance["classifier"] / 3
    assert comparisons["enum"].variance["component"] < 1e-9 * comparisons["graph"].variance["component"]
    assert comparisons["enum"].signal_to_noise["component"] > 1e4
    assert abs(comparisons["enum"].bound - comparisons["graph"].bound) < 5 * (
        comparisons["enum"].error + comparisons["graph"].error
    )
    bound_of = {"mean-field": "neither", "graph": "the story", "enum": "the story"}
    lines = comparison_table(comparisons, bound_of).splitlines()
    assert len(lines) == 5
    assert {line.count("|") for line in lines} == {1 + 4 + 2 * 4}


def test_an_infinite_ratio_is_null_in_json():
    comparison = Comparison(-1.0, 0.1, {"a": 0.0, "b": 2.0}, {"a": torch.inf, "b": 3.0}, 5.0)
    assert comparison.as_json() == {
        "bound": -1.0,
        "error": 0.1,
        "variance": {"a": 0.0, "b": 2.0},
        "signal_to_noise": {"a": None, "b": 3.0},
        "milliseconds": 5.0,
        "megabytes": None,
        "data": 1,
        "refused": None,
    }


def test_a_step_keeps_memory_in_proportion_to_its_particles():
    model = LinearGaussian()
    x = model(batch=50).detach()
    objectives = {str(k): partial(iwae, particles=k) for k in (100, 300)}
    rows = compare(model, ExactGuide(model, 0.5), {"x": x}, objectives, draws=2)
    assert rows["300"].megabytes / rows["100"].megabytes == pytest.approx(3.0, rel=0.05)
