"""Stories of every recipe, their objectives as they really are, and the forms that a story takes."""

import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_models.cli.verbs import main as verbs
from pyro_models.base.errors import UserError
from pyro_models.reading import story
from pyro_models.recipes.autoencoder import AutoencoderRecipe
from pyro_models.recipes.classifier import ClassifierRecipe
from pyro_models.recipes.gmvae import GMVAERecipe
from pyro_models.recipes.jmvae import JMVAERecipe
from pyro_models.recipes.registry import RECIPES
from pyro_models.recipes.vae import VAERecipe

VAE = ("p(x, z) = ∏_data p(z) p(x | z)", "q(z | x) = ∏_data q(z | x)")
GMVAE = ("p(x, y, z) = ∏_data p(y) p(z | y) p(x | z)", "q(y, z | x) = ∏_data q(y | x) q(z | x, y)")
JMVAE = ("p(y1, y2, x, z) = ∏_data p(z) p(y1 | z) p(y2 | z) p(x | z)", "q(z | x, y1, y2) = ∏_data q(z | x, y1, y2)")
OF_X = "ELBO(x) = E_q[log p(x | z) − KL(q(z | x) ‖ p(z))]"
OF_ALL = "KL(q(z | x, y1, y2) ‖ p(z))]"
OF_KINDS = "ELBO(x) = E_q[log p(x | z) − KL(q(y | x) ‖ p(y)) − KL(q(z | x, y) ‖ p(z | y))]"
CASES = [
    (VAERecipe(), VAE, ("loss = − elbo", OF_X)),
    (VAERecipe(beta=4.0), VAE, ("loss = − elbo", OF_X.replace("− KL", "− 4 · KL"))),
    (VAERecipe(elbo="iwae", particles=3), VAE, ("loss = − iwae",)),
    (
        AutoencoderRecipe(),
        ("p(x, z) ∝ ∏_data p(x | z)", VAE[1]),
        ("loss = − elbo", "ELBO(x) = E_q[log p(x | z) − log q(z | x)]"),
    ),
    (GMVAERecipe(), GMVAE, ("loss = − elbo + 200 · consistency + 200 · marginal_kl + 20 · entropy", OF_KINDS)),
    (
        GMVAERecipe(labels=100, consistency=0.0, marginal_kl=0.0, entropy=0.0, label_weight=7.0, elbo="enum", beta=0.5),
        GMVAE,
        (
            "loss = − elbo − 0.0728863 · labelled_elbo + 7 · cross_entropy",  # 100 of 1372 training digits
            OF_KINDS.replace("− KL(q(z", "− 0.5 · KL(q(z"),
            "ELBO(y, x) = E_q[log p(y) + log p(x | z) − 0.5 · KL(q(z | x, y) ‖ p(z | y))]",
        ),
    ),
    (
        ClassifierRecipe(network="mlp", vat=3.0),
        ("p(y | x) = ∏_data p(y | x)",),
        ("loss = 3 · vat + 2 · consistency + marginal_kl + 0.2 · entropy − elbo", "ELBO(y | x) = E_q[log p(y | x)]"),
    ),
    (
        JMVAERecipe(width=16),
        JMVAE,
        (
            "loss = − elbo + 5 · kl_given_x + 5 · kl_given_y",
            f"ELBO(y1, y2, x) = E_q[30 · log p(y1 | z) + 30 · log p(y2 | z) + log p(x | z) − {OF_ALL}",
        ),
    ),
    (
        JMVAERecipe(width=16, objective="telbo", private_weight=3.0, beta=0.2),
        JMVAE,
        (
            "loss = − elbo − elbo_x − elbo_y",
            f"ELBO(y1, y2, x) = E_q[30 · log p(y1 | z) + 30 · log p(y2 | z) + log p(x | z) − 0.2 · {OF_ALL}",
            OF_X.replace("− KL", "− 0.2 · KL"),
            "ELBO(y1, y2) = E_q[90 · log p(y1 | z) + 90 · log p(y2 | z) − 0.2 · KL(q(z | y1, y2) ‖ p(z))]",
        ),
    ),
]


@pytest.mark.parametrize(
    ("recipe", "factorisation", "objective"), CASES, ids=lambda value: getattr(value, "name", None)
)
def test_recipes_read_as_written_by_hand(recipe, factorisation, objective):
    torch.set_default_dtype(torch.float32)
    state = torch.get_rng_state()
    told = dataclasses.replace(recipe, batch_size=16).story(recipe.load(None))
    assert told.factorisation == factorisation
    assert told.objective == objective
    assert (told.note == "") == (recipe.bound_of is None)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32
    assert list(pyro.get_param_store().keys()) == []
    assert max(map(len, told.text.splitlines())) <= 100


def test_every_recipe_is_among_them():
    assert {type(recipe) for recipe, *_ in CASES} == set(RECIPES.values())


def greek(data):
    sigma = pyro.sample("sigma", dist.Gamma(2.0, 2.0))
    with pyro.plate("data", len(data)):
        z_1 = pyro.sample("z_1", dist.Normal(0.0, sigma))
        size = pyro.deterministic("body_size", z_1.exp(), event_dim=0)
        pyro.sample("x", dist.Normal(size, 1.0), obs=data)


@pytest.fixture
def told():
    return story(greek, torch.zeros(3))


def test_the_text_reads_line_by_line(told):
    assert str(told).splitlines() == [
        "story p, and the shapes of batch and event",
        "  sigma ~ Gamma(concentration, rate)                   [] []",
        "  for each of 3 in plate data:",
        "    z_1 ~ Normal(loc, scale) given sigma               [3] []",
        "    body_size = f(z_1) (deterministic)                 [3] []",
        "    x ~ Normal(loc, scale) given body_size (observed)  [3] []",
        "",
        "factorisation",
        "  p(x, sigma, z_1) = p(sigma) ∏_data p(z_1 | sigma) p(x | z_1)",
        "",
        "objective",
        "  ELBO = E_q[log p(x, sigma, z_1) − log q(sigma, z_1 | x)] ≤ log p(x)",
    ]


def test_the_formulas_in_latex(told):
    assert told.latex.splitlines() == [
        r"\begin{aligned}",
        r"p(x, \sigma, z_{1}) &= p(\sigma) \prod_{\mathrm{data}} p(z_{1} \mid \sigma) p(x \mid z_{1}) \\",
        r"\mathrm{ELBO} &= \mathbb{E}_q[\log p(x, \sigma, z_{1}) - \log q(\sigma, z_{1} \mid x)] \leq \log p(x)",
        r"\end{aligned}",
    ]


EDGES = {("sigma", "z_1"), ("z_1", "body_size"), ("body_size", "x")}


@pytest.mark.parametrize(
    ("form", "node", "edge"), [("mermaid", r'(n\d)\S*"(\w+)"', "-->"), ("dot", r'(n\d) .*?"(\w+)"', "->")]
)
def test_the_graph_in_words(told, form, node, edge):
    text = getattr(told, form)
    names = dict(re.findall(node, text))
    assert {(names[a], names[b]) for a, b in re.findall(rf"(n\d) {edge} (n\d)", text)} == EDGES
    inside = text[text.index("data (3)") :].split("}" if form == "dot" else "end")[0]
    assert {name for key, name in names.items() if re.search(rf"\b{key}\b", inside)} == {"z_1", "body_size", "x"}


def test_the_picture_holds_each_site_in_its_plate(told):
    picture = ElementTree.fromstring(told.svg)
    tag = "{http://www.w3.org/2000/svg}"
    words = {one.text: (float(one.get("x")), float(one.get("y"))) for one in picture.iter(f"{tag}text")}
    boxes = [[float(one.get(side)) for side in ("x", "y", "width", "height")] for one in picture.iter(f"{tag}rect")]
    assert len(picture.findall(f"{tag}path")) == len(EDGES)
    (plate,) = [(x, y, w, h) for x, y, w, h in boxes if (x + w - 5, y + h - 4) == pytest.approx(words["data (3)"])]

    def within(name):
        x, y = words[name]
        return plate[0] < x < plate[0] + plate[2] and plate[1] < y < plate[1] + plate[3]

    assert [within(name) for name in ("sigma", "z_1", "body_size", "x")] == [False, True, True, True]
    assert words["z_1"][1] < words["body_size"][1] < words["x"][1]


def test_the_page_needs_no_network_and_the_notebook_shows_formulas(told):
    assert "http" not in told.html.replace("http://www.w3.org/2000/svg", "")
    assert "∏_data" in told.html
    assert told.latex in told._repr_markdown_()
    assert "data:image/svg+xml;base64," in told._repr_markdown_()
    assert f"```mermaid\n{told.mermaid}\n```" in told.markdown


def test_a_story_without_latents_is_its_likelihood():
    def coin(data):
        with pyro.plate("data", len(data)):
            pyro.sample("x", dist.Bernoulli(0.5), obs=data)

    assert story(coin, torch.ones(2)).objective == ("log-likelihood = log p(x)",)


def test_graphviz_is_asked_for_where_it_is_not_there(told, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "graphviz", None)
    with pytest.raises(UserError, match="pip install"):
        told.graphviz()


def test_the_verb_tells_recipes_and_run_folders(tmp_path, capsys):
    torch.set_default_dtype(torch.float32)
    words = ["vae", "--latent-dim", "3", "--batch-size", "32"]
    assert verbs(["story", *words]) == 0
    printed = capsys.readouterr().out
    assert "z ~ Normal(loc, scale)                        [32] [3]" in printed
    recipe = VAERecipe(latent_dim=3, batch_size=32)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.as_json()))
    assert verbs(["story", str(tmp_path)]) == 0
    assert capsys.readouterr().out == printed
    out = tmp_path / "story.svg"
    assert verbs(["story", *words, "--out", str(out)]) == 0
    ElementTree.fromstring(out.read_text())
    assert verbs(["story", *words, "--format", "mermaid"]) == 0
    assert "flowchart TD" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["gmva"], "pyro-stories story gmva: unknown recipe 'gmva': did you mean 'gmvae'?"),
        (
            ["vae", "--laten-dim", "3"],
            "pyro-stories story vae: unknown option '--laten-dim': did you mean '--latent-dim'?",
        ),
        (["."], "pyro-stories story: . is no run folder: it holds no recipe.json"),
        ([], "pyro-stories story: the following arguments are required: RECIPE"),
    ],
)
def test_wrong_words_are_answered_in_a_line(words, complaint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        verbs(["story", *words])
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip() == complaint
