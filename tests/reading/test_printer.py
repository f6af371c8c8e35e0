"""Stories of programs and objectives in the forms that they take."""

import re
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_models.base.errors import UserError
from pyro_models.objectives import discriminative, enum, iwae, relaxed, scaled, with_labels
from pyro_models.reading import story, story_of_objective
from tests.linear_mixture import COLUMNS, linear_mixture

OF_CATEGORIES = "ELBO(x) = E_q[log p(x | z) − KL(q(y | x) ‖ p(y)) − KL(q(z | x, y) ‖ p(z | y))]"


def test_an_objective_is_its_weighted_terms_and_the_bounds_in_them_as_they_are_scaled():
    pair, x = linear_mixture(), torch.randn(6, COLUMNS)
    both = with_labels(scaled(enum, {"z": 4.0}), enum, pair[1].classify, weight=7.0, share=0.5)
    batch = {"x": x, "labelled_x": x[:3], "labelled_y": torch.eye(3)}
    read = story_of_objective(*pair, both, batch, arguments={"x": x}, note="a remark")
    assert read.objective == (
        "loss = − elbo − 0.5 · labelled_elbo + 7 · cross_entropy",
        OF_CATEGORIES.replace("KL(q(z", "4 · KL(q(z"),
        "ELBO(y, x) = E_q[log p(y) + log p(x | z) − KL(q(z | x, y) ‖ p(z | y))]",
    )
    assert read.factorisation == story(pair[0], x=x, guide=pair[1]).factorisation
    assert str(read).splitlines()[-1] == "  (a remark)"


@pytest.mark.parametrize("note", [None, "of another story"])
def test_a_loss_that_is_no_weighted_sum_gets_a_note(note):
    def squared(model, guide, **batch):
        terms = enum(model, guide, **batch)
        return {"loss": terms["elbo"].square(), "elbo": terms["elbo"]}

    read = story_of_objective(*linear_mixture(), squared, {"x": torch.randn(6, COLUMNS)}, note=note)
    assert read.objective == (OF_CATEGORIES,)
    assert read.note == (f"{note}; " if note else "") + "the loss is not a weighted sum of its terms"


def test_a_bound_of_importance_weights_is_the_loss_alone():
    read = story_of_objective(
        *linear_mixture(), partial(relaxed(iwae, 0.5), particles=3), {"x": torch.randn(6, COLUMNS)}
    )
    assert read.objective == ("loss = − iwae",)


def test_a_loss_of_no_terms_is_0():
    pair = linear_mixture()
    assert story_of_objective(*pair, discriminative(pair[1].classify), {"x": torch.randn(6, COLUMNS)}).objective == (
        "loss = 0",
    )


def test_nothing_is_left_of_an_objectives_run():
    model, guide = linear_mixture()
    guide.classifier.insert(0, norm := torch.nn.BatchNorm1d(COLUMNS))
    before, state = norm.running_mean.clone(), torch.get_rng_state()
    story_of_objective(model, guide, enum, {"x": torch.randn(6, COLUMNS, generator=torch.Generator().manual_seed(0))})
    assert torch.equal(norm.running_mean, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in (*model.parameters(), *guide.parameters()))


def test_an_objective_of_ones_own_over_programs_without_plates():
    def model(x):
        with poutine.scale(scale=3.0):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(x, 1.0))

    def objective(model, guide, **batch):
        loss = pyro.infer.Trace_ELBO().differentiable_loss(model, guide, **batch)
        return {"loss": loss, "elbo": -loss}

    read = story_of_objective(model, guide, objective, {"x": torch.zeros(())})
    assert read.note == "the loss is not a weighted sum of its terms"


def greek(data):
    sigma = pyro.sample("sigma", dist.Gamma(2.0, 2.0))
    with pyro.plate("data", len(data)):
        z_1 = pyro.sample("z_1", dist.Normal(0.0, sigma))
        size = pyro.deterministic("body_size", z_1.exp(), event_dim=0)
        pyro.sample("x", dist.Normal(size, 1.0), obs=data)


@pytest.fixture
def example():
    return story(greek, torch.zeros(3))


def test_the_text_reads_line_by_line(example):
    assert str(example).splitlines() == [
        "story p, and the shapes of batch and event",
        "  sigma ~ Gamma(2, 2)                    [] []",
        "  for each of 3 in plate data:",
        "    z_1 ~ Normal(0, sigma)               [3] []",
        "    body_size = f(z_1) (deterministic)   [3] []",
        "    x ~ Normal(body_size, 1) (observed)  [3] []",
        "",
        "factorisation",
        "  p(x, sigma, z_1) = p(sigma) ∏_data p(z_1 | sigma) p(x | z_1)",
        "",
        "objective",
        "  ELBO = E_q[log p(x, sigma, z_1) − log q(sigma, z_1 | x)] ≤ log p(x)",
    ]


def test_the_formulas_in_latex(example):
    assert example.latex.splitlines() == [
        r"\begin{aligned}",
        r"p(x, \sigma, z_{1}) &= p(\sigma) \prod_{\mathrm{data}} p(z_{1} \mid \sigma) p(x \mid z_{1}) \\",
        r"\mathrm{ELBO} &= \mathbb{E}_q[\log p(x, \sigma, z_{1}) - \log q(\sigma, z_{1} \mid x)] \leq \log p(x)",
        r"\end{aligned}",
    ]


EDGES = {("sigma", "z_1"), ("z_1", "body_size"), ("body_size", "x")}


@pytest.mark.parametrize(
    ("form", "node", "edge"), [("mermaid", r'(n\d)\W*"(\w+)"', "-->"), ("dot", r'(n\d) .*?"(\w+)"', "->")]
)
def test_the_graph_in_words(example, form, node, edge):
    text = getattr(example, form)
    names = dict(re.findall(node, text))
    assert {(names[a], names[b]) for a, b in re.findall(rf"(n\d) {edge} (n\d)", text)} == EDGES
    inside = text[text.index("data (3)") :].split("}" if form == "dot" else "end")[0]
    assert {name for key, name in names.items() if re.search(rf"\b{key}\b", inside)} == {"z_1", "body_size", "x"}


def test_no_name_breaks_the_graph_in_words():
    def model():
        pyro.sample('a "b" #1\\', dist.Normal(0.0, 1.0))

    read = story(model)
    assert '"a #quot;b#quot; #35;1\\"' in read.mermaid
    assert r'label="a \"b\" #1\\"' in read.dot


def test_the_page_needs_no_network_and_the_notebook_shows_formulas(example):
    assert "http" not in example.html.replace("http://www.w3.org/2000/svg", "")
    assert "∏_data" in example.html
    assert example.latex in example._repr_markdown_()
    assert "data:image/svg+xml;base64," in example._repr_markdown_()
    assert f"```mermaid\n{example.mermaid}\n```" in example.markdown


def test_a_story_without_latents_is_its_likelihood():
    def coin(data):
        with pyro.plate("data", len(data)):
            pyro.sample("x", dist.Bernoulli(0.5), obs=data)

    assert story(coin, torch.ones(2)).objective == ("log-likelihood = log p(x)",)


def test_graphviz_is_asked_for_where_it_is_not_there(example, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "graphviz", None)
    with pytest.raises(UserError, match="pip install"):
        example.graphviz()
