"""What has to hold for every recipe, whatever it is."""

import dataclasses
from functools import partial
from typing import get_args, get_type_hints

import pyro
import pytest
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO

from pyro_models.base import names
from pyro_models.base.errors import UserError
from pyro_models.cli.train import parse
from pyro_models.data import Attribute, Dataset, Split, load, tables
from pyro_models.metrics import contracts, generate, predict, reconstruct, score
from pyro_models.objectives import ESTIMATORS, Relax, Scheduled, record_pair
from pyro_models.recipes import (
    RECIPES,
    AutoencoderRecipe,
    ClassifierRecipe,
    DiscreteRecipe,
    GMVAERecipe,
    JMVAERecipe,
    VAERecipe,
    from_json,
    table,
)
from pyro_models.training.loop import fit, parameters

SHAPE = (1, 6, 6)
EPOCHS = 6
DENSE = {"network": "mlp", "vat": 0.0}
VARIANTS = [
    VAERecipe(),
    VAERecipe(network="article", latent_dim=3),
    VAERecipe(network="iwae", elbo="iwae", particles=3, schedule="stages"),
    VAERecipe(likelihood="continuous-bernoulli"),
    VAERecipe(likelihood="normal"),
    VAERecipe(likelihood="normal", scale=0.2),
    VAERecipe(pixels="dynamic"),
    AutoencoderRecipe(),
    AutoencoderRecipe(network="simple"),
    AutoencoderRecipe(network="simple", tied=True),
    AutoencoderRecipe(network="linear", tied=True),
    GMVAERecipe(clusters=3, **DENSE, final_temperature=0.3),
    GMVAERecipe(clusters=3, **DENSE, labels=12, likelihood="normal", scale=0.5),
    GMVAERecipe(clusters=3, **DENSE, elbo="enum", consistency=0.0, marginal_kl=0.0, entropy=0.0),
    GMVAERecipe(clusters=3, **DENSE, elbo="graph", particles=3),
    GMVAERecipe(clusters=3, **DENSE, elbo="rws", particles=3),
    GMVAERecipe(clusters=3, **DENSE, elbo="dreg", particles=3),
    GMVAERecipe(clusters=3, network="conv", vat=0.0, elbo="trace"),
    GMVAERecipe(clusters=3, vat=10.0, labels=12),
    ClassifierRecipe(classes=3, labels=12),
    ClassifierRecipe(classes=3, labels=12, marginal_kl=1.0, entropy=1.0, iterations=2),
    ClassifierRecipe(classes=3, labels=6, network="article", consistency=0.0, marginal_kl=0.0, entropy=0.0),
    ClassifierRecipe(classes=3, labels=12, network="paper", vat=0.0, consistency=0.0),
    ClassifierRecipe(classes=3, labels=40, network="mlp"),
    JMVAERecipe(width=16),
    JMVAERecipe(width=16, pixels="dynamic", subsets=False, warm_up=0.5, attribute_weight=5.0),
    JMVAERecipe(width=16, objective="telbo", elbo="trace"),
    JMVAERecipe(width=16, objective="telbo", variant="stop-gradient", private_weight=3.0),
    JMVAERecipe(width=16, objective="mvae"),
    JMVAERecipe(width=16, network="spatial", unimodal_weight=1.0),
    RECIPES["cvae"](latent_dim=3),
    RECIPES["cvae"](given="3", network="mlp", pixels="dynamic"),
    RECIPES["cvae"](given="label", likelihood="normal", elbo="iwae", particles=3),
    RECIPES["hvae"](latent_dim=2, lower_dim=3),
    RECIPES["hvae"](network="mlp", elbo="dreg", particles=3, warm_up=0.0),
]
ATTRIBUTES = (Attribute("even", ("no", "yes")), Attribute("kind", ("0", "1", "2")))
every_variant = pytest.mark.parametrize(
    "recipe", VARIANTS, ids=lambda r: "-".join(str(v) for v in dataclasses.astuple(r) if isinstance(v, str | bool))
)
PROGRAMS = {(type(recipe), getattr(recipe, "objective", "")): recipe for recipe in VARIANTS[::-1]}.values()
"""One of each pair of programs: the others differ in their networks, their likelihoods and their losses."""
every_recipe = pytest.mark.parametrize("recipe", {type(recipe): recipe for recipe in VARIANTS[::-1]}.values())


@pytest.fixture
def split(request):
    recipe = request.node.callspec.params.get("recipe") if hasattr(request.node, "callspec") else None
    large = {(GMVAERecipe, "conv"): 3, (ClassifierRecipe, "article"): 6}  # nets for images of 28 x 28 alone
    n = large.get((type(recipe), getattr(recipe, "network", None)), 40)
    shape = SHAPE if n == 40 else (1, 28, 28)
    labels = torch.arange(n) % 3
    images = torch.randint(0, 200, (3, *shape))[labels] + torch.randint(0, 56, (n, *shape))  # three patterns, and noise
    codes = torch.stack([labels % 2, labels], -1)
    codes[::5, 0] = -1  # not known
    return Split(images.to(torch.uint8), labels, codes)


def blank(shape=SHAPE):
    return Split(torch.zeros(40, *shape, dtype=torch.uint8))


def dataset_of(split):
    return Dataset("patterns", "grey", split, split, split, attributes=ATTRIBUTES)


def pair_of(recipe, split):
    return recipe.pair(dataset_of(split))


def batches_of(recipe, split, **changes):
    """All data in one batch, an epoch in one step."""
    size = len(recipe.training_splits(split)[0])
    return recipe.batches(dataset_of(split), **{"size": size, "steps": 1} | changes)


def batch_of(recipe, split):
    return next(batches_of(recipe, split).epoch(0))


def observed(recipe, split):
    """The data that the story observes, attributes only where all of them are known."""
    batch = recipe.batch(dataset_of(split), split)
    known = torch.stack([~value.flatten(1).isnan().any(-1) for value in batch.values()]).all(0)
    return {name: value[known] for name, value in batch.items()}


def objective_of(recipe, guide, split):
    objective = recipe.training_objective(guide, split)
    return objective.at(0.5) if isinstance(objective, Scheduled) else objective


def test_every_recipe_has_a_variant_here():
    assert {type(recipe) for recipe in VARIANTS} == set(RECIPES.values())


@every_variant
def test_the_guide_draws_the_latent_sites_of_the_story(recipe, split):
    model, guide = pair_of(recipe, split)
    p, q = record_pair(model, guide, **observed(recipe, split))
    latent = [name for name, site in p.items() if not site.is_observed]
    expected = {ClassifierRecipe: [], GMVAERecipe: ["y", "z"], RECIPES["hvae"]: ["z2", "z1"]}
    assert list(q) == latent == expected.get(type(recipe), ["z"])
    assert p[recipe.target].is_observed
    if isinstance(recipe, GMVAERecipe):
        p, q = record_pair(model, guide, x=batch_of(recipe, split)["x"], y=torch.eye(3)[split.labels])
        assert list(q) == ["z"]
        assert p["y"].is_observed


@every_variant
def test_each_half_has_what_pictures_and_scores_ask_of_it(recipe, split):
    model, guide = pair_of(recipe, split)
    story = {GMVAERecipe: contracts.MixtureStory, JMVAERecipe: contracts.AttributeStory}.get(
        type(recipe), contracts.Story
    )
    assert isinstance(model, story) or isinstance(recipe, ClassifierRecipe)
    assert isinstance(guide, contracts.Guide) or isinstance(recipe, ClassifierRecipe)
    assert isinstance(guide, contracts.SemiSupervisedGuide) == isinstance(recipe, DiscreteRecipe)


@every_variant
def test_every_parameter_of_both_halves_gets_a_gradient(recipe, split):
    model, guide = pair_of(recipe, split)
    objective_of(recipe, guide, split)(model, guide, **batch_of(recipe, split))["loss"].backward()
    for half in (model, guide):
        for name, parameter in half.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


@every_variant
def test_learning_one_batch_lowers_the_loss(recipe, split):
    torch.set_default_dtype(torch.float32)
    pair = pair_of(recipe, split)
    narrow = getattr(recipe, "width", 512) < 512
    optimizer = torch.optim.Adam(parameters(*pair), lr=1e-2 if narrow else 1e-3, fused=True)
    objective = recipe.training_objective(pair[1], split)
    losses = [e.terms["loss"] for e in fit(*pair, batches_of(recipe, split), objective, optimizer, epochs=EPOCHS)]
    assert sum(losses[EPOCHS // 2 :]) < sum(losses[: EPOCHS // 2])


@every_recipe
def test_pyros_svi_trains_the_pair_of_every_recipe(recipe, split):
    torch.set_default_dtype(torch.float32)
    pair = pair_of(recipe, split)
    before = [parameter.detach().clone() for parameter in parameters(*pair)]
    svi = SVI(*pair, pyro.optim.Adam({"lr": 1e-3, "fused": True}), Trace_ELBO(max_plate_nesting=1))
    losses = [svi.step(**observed(recipe, split)) for _ in range(EPOCHS)]
    assert sum(losses[EPOCHS // 2 :]) < sum(losses[: EPOCHS // 2])
    changed = [not torch.equal(one, other) for one, other in zip(before, parameters(*pair), strict=True)]
    idle = 0  # the experts of q(z | y), which q(z | x, y) does not ask
    if isinstance(recipe, JMVAERecipe) and not pair[1].product:
        idle = len(list(pair[1].experts.parameters()))
    assert changed.count(False) == idle


@pytest.mark.parametrize("recipe", PROGRAMS)
@pytest.mark.parametrize("estimator", [TraceMeanField_ELBO, RenyiELBO])
def test_pyros_other_estimators_take_every_pair(recipe, split, estimator):
    torch.set_default_dtype(torch.float32)
    pair = pair_of(recipe, split)
    svi = SVI(*pair, pyro.optim.Adam({"lr": 1e-3, "fused": True}), estimator(max_plate_nesting=1))
    with Relax(0.5):  # of stories without a discrete site it changes nothing
        assert torch.tensor(svi.step(**observed(recipe, split))).isfinite()


@every_variant
def test_a_recipe_survives_json(recipe):
    assert from_json(recipe.as_json()) == recipe


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_presets_and_their_options_are_valid(recipe):
    for name in recipe.presets:
        preset = recipe.preset(name)
        assert from_json(preset.as_json()) == preset != recipe()
        assert parse(preset.command().split()[2:])[0] == preset


def test_the_estimators_of_the_command_line_are_those_of_the_table():
    assert get_args(get_type_hints(GMVAERecipe)["elbo"]) == tuple(ESTIMATORS)


def test_a_tied_autoencoder_has_one_parameter_fewer_and_shares_it_everywhere(split):
    loose = AutoencoderRecipe(network="simple").pair(dataset_of(blank()))
    tied = AutoencoderRecipe(network="simple", tied=True).pair(dataset_of(blank()))
    assert len(parameters(*loose)) == 4
    assert len(parameters(*tied)) == 3
    both = torch.nn.ModuleList(tied).to(torch.float32)
    model, guide = tied
    assert model.decoder[0][0].weight is guide.encoder[1][0].weight
    torch.set_default_dtype(torch.float32)
    batches = batches_of(AutoencoderRecipe(), split, size=20)
    list(fit(*tied, batches, AutoencoderRecipe().bound(), torch.optim.Adam(parameters(*tied)), epochs=1))
    assert model.decoder[0][0].weight is guide.encoder[1][0].weight
    assert len(list(both.parameters())) == 3


def test_the_best_linear_tied_autoencoder_is_pca():
    """Its squared error can only reach that of the principal components, and does."""
    torch.manual_seed(1)
    x = (torch.randn(200, 3) @ torch.randn(3, 36) + 0.1 * torch.randn(200, 36)).sigmoid()
    split = Split((x * 255).to(torch.uint8).reshape(-1, *SHAPE))
    pair = AutoencoderRecipe(network="linear", tied=True, latent_dim=3).pair(dataset_of(blank()))
    optimizer = torch.optim.LBFGS(parameters(*pair), max_iter=500, line_search_fn="strong_wolfe", tolerance_change=0)
    pixels = (split.x / 255.0).double()

    def loss():
        optimizer.zero_grad()
        value = AutoencoderRecipe().bound()(*pair, x=pixels)["loss"]
        value.backward()
        return value

    optimizer.step(loss)
    error = (reconstruct(*pair, {"x": pixels}) - pixels).square().sum()
    singular = torch.linalg.svdvals(pixels.flatten(1) - pixels.flatten(1).mean(0))
    torch.testing.assert_close(error, singular[3:].square().sum(), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be between 1 and 100000, not 0"),
        ({"latent_dim": 0}, "`latent_dim` must be"),
        ({"batch_size": -3}, "`batch_size` must be at least 1"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be"),
        ({"beta": 2.0, "elbo": "iwae", "particles": 5}, "bounds nothing"),
        ({"elbo": "iwae"}, "give 2 or more"),
        ({"elbo": "renyi", "particles": 2, "alpha": 1.0}, "use `elbo=trace`"),
        ({"network": "artcle"}, "did you mean 'article'"),
        ({"epochs": "5"}, "`epochs` must be of type int, not '5'"),
        ({"data": "minst"}, "did you mean 'mnist'"),
        ({"alpha": 0.3}, "`alpha` goes with `elbo=renyi`"),
        ({"scale": 0.3}, "`scale` goes with `likelihood=normal`"),
        ({"elbo": "enum"}, "`elbo`: unknown value 'enum'"),
        ({"elbo": "dreg"}, "give 2 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        VAERecipe(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be between 0.001 and 100, not 0"),
        ({"temperature": -1.0}, "`temperature` must be"),
        ({"clusters": 1}, "`clusters` must be"),
        ({"elbo": "rws", "particles": 5, "beta": 8.0}, "bounds nothing"),
        ({"labels": -1}, "`labels` must be"),
        ({"vat": -1.0}, "`vat` must be"),
        ({"iterations": 0}, "`iterations` must be between 1 and 100, not 0"),
        ({"finite_difference": 0.0}, "`finite_difference` must be"),
        ({"split": "artcle"}, "`split`: unknown value 'artcle': did you mean 'article'"),
    ],
)
def test_options_of_the_mixture_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        GMVAERecipe(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": 0}, "`labels` must be at least 1, not 0"),
        ({"unlabelled": -1}, "`unlabelled` must be at least 0, not -1"),
        ({"network": "artcle"}, "`network`: unknown value 'artcle': did you mean 'article'"),
        ({"batch_size": 1}, "`batch_size` must be at least 2, not 1"),
        ({"steps": 0}, "`steps` must be between 1 and 1000000, not 0"),
        ({"label_seed": -1}, "`label_seed` must be at least 0, not -1"),
        ({"radius": float("inf")}, "`radius` must be between 0 and 1000000, not inf"),
    ],
)
def test_options_of_the_classifier_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ClassifierRecipe(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "jmvea"}, "`objective`: unknown value 'jmvea': did you mean 'jmvae'"),
        ({"variant": "stop-gradient"}, "`variant` and `private_weight` go with `objective=telbo`, not with jmvae"),
        ({"private_weight": 2.0, "objective": "mvae"}, "go with `objective=telbo`, not with mvae"),
        ({"warm_up": 1.5}, "`warm_up` must be between 0 and 1, not 1.5"),
        (
            {"elbo": "iwae", "particles": 5},
            "`attribute_weight=30` with `elbo=iwae` bounds nothing: give `attribute_weight=1`",
        ),
        ({"objective": "mvae", "subsets": False}, "`objective=mvae` trains on subsets"),
        ({"elbo": "enum"}, "`elbo`: unknown value 'enum'"),
    ],
)
def test_options_of_the_joint_model_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        JMVAERecipe(**options)


def test_the_weight_of_the_kl_warms_up_linearly(split):
    recipe = JMVAERecipe(width=16, warm_up=0.5, attribute_weight=1.0, unimodal_weight=1.0)
    model, guide = pair_of(recipe, split)
    objective, batch = recipe.training_objective(guide, split), batch_of(recipe, split)
    for progress, weight in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.9, 1.0)):
        terms = objective.at(progress)(model, guide, **batch)
        beside = terms["kl_given_x"] + terms["kl_given_y"]
        expected = -terms["reconstruction"] + weight * terms["kl"] + beside
        torch.testing.assert_close(terms["loss"].detach(), expected)


@pytest.mark.parametrize("kind", [VAERecipe, GMVAERecipe, RECIPES["cvae"]])
def test_the_weight_of_the_kl_of_z_rises_and_its_free_bits_are_noted(kind):
    recipe, data = kind(warm_up=0.5, beta=4.0, batch_size=16), load("digits")
    assert recipe.is_scheduled
    torch.manual_seed(0)
    model, guide = recipe.pair(data)
    batch = next(recipe.batches(data, steps=1).epoch(0))
    for progress, weight in ((0.25, 2.0), (0.5, 4.0)):
        torch.manual_seed(1)
        terms = recipe.eased(recipe.bound(), progress)(model, guide, **batch)
        rest = terms["kl"] - terms.get("kl_z", terms["kl"])  # of y
        expected = -terms["reconstruction"] + weight * terms.get("kl_z", terms["kl"]) + rest
        torch.testing.assert_close(terms["loss"].detach(), expected)
    assert not kind().is_scheduled
    assert kind(free_bits=2.0).note.endswith("KL of z counts as 2 nats where it is below")


def test_the_temperature_falls_geometrically_and_is_named():
    recipe, data = GMVAERecipe(temperature=1.0, final_temperature=0.25), load("blobs")
    objective = recipe.training_objective(recipe.pair(dataset_of(blank()))[1], data.train)
    seen = []
    for progress in (0.0, 0.5, 1.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "pyro_models.objectives.relaxed", lambda bound, temperature: seen.append(temperature) or bound
            )
            objective.at(progress)
    assert seen == pytest.approx([1.0, 0.5, 0.25])
    assert recipe.bound_of == "neither story: y relaxed at temperature 0.25 (falling from 1 in training), discrete kl"
    assert GMVAERecipe(elbo="trace").bound_of == "the story with y relaxed at temperature 0.5"
    assert GMVAERecipe(elbo="enum").bound_of is VAERecipe().bound_of is None


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        (VAERecipe(), ""),
        (
            VAERecipe(network="article", scale_head="log-variance", encoder_dropout=0.0, schedule="constant", epochs=3),
            " --preset kingma --epochs 3",
        ),
        (GMVAERecipe(labels=100, stratified=False), " --labels 100 --no-stratified"),
        (AutoencoderRecipe(network="simple", tied=True), " --network simple --tied"),
    ],
)
def test_the_command_is_the_shortest_that_gives_the_recipe(recipe, options):
    command = recipe.command()
    assert command == f"pyro-stories train {recipe.name}{options}"
    assert parse(command.split()[2:])[0] == recipe


def test_convolutions_of_other_images_are_refused():
    small = Split(torch.zeros(40, 1, 6, 6, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"`network=conv` takes images of 28 x 28, not \[1, 6, 6\]"):
        GMVAERecipe(network="conv").check_data(Dataset("small", "grey", small, small, small))


def test_data_sets_have_the_names_that_the_command_line_knows():
    assert tuple(tables.TABLES) == names.TABLES


def test_the_step_of_labelled_and_unlabelled_data_weighs_as_stated(split):
    """-elbo(x) + terms + labels / n * -elbo(x, y) + weight * cross-entropy, each a mean over its own data."""
    recipe = GMVAERecipe(clusters=3, labels=12, elbo="enum", label_weight=7.0, consistency=0.0, vat=3.0)
    model, guide = (half.eval() for half in recipe.pair(dataset_of(blank())))
    batch = batch_of(recipe, split)
    torch.manual_seed(1)
    terms = recipe.training_objective(guide, split)(model, guide, **batch)
    expected = -terms["elbo"] + 200 * terms["marginal_kl"] + 20 * terms["entropy"] + 3 * terms["vat"]
    expected = expected - 12 / 40 * terms["labelled_elbo"] + 7 * terms["cross_entropy"]
    torch.testing.assert_close(terms["loss"], expected)
    logits = guide.classifier(batch["labelled_x"])
    entropy = torch.nn.functional.cross_entropy(logits, batch["labelled_y"].argmax(-1))
    torch.testing.assert_close(terms["cross_entropy"], entropy)


def test_the_step_of_the_classifier_weighs_as_stated(split):
    """Cross-entropy of the labels, and each term times its weight, of the other data."""
    weights = {"vat": 2.0, "consistency": 3.0, "marginal_kl": 5.0, "entropy": 7.0}
    recipe = ClassifierRecipe(classes=3, labels=12, **weights)
    model, guide = (half.eval() for half in recipe.pair(dataset_of(blank())))
    batch = batch_of(recipe, split)
    terms = recipe.training_objective(guide, split)(model, guide, **batch)
    named = ("vat", "consistency", "marginal_kl", "entropy")
    expected = sum(weight * terms[name] for name, weight in zip(named, weights.values(), strict=True)) - terms["elbo"]
    torch.testing.assert_close(terms["loss"].detach(), expected)
    logits = guide.network(batch["labelled_x"])
    cross_entropy = torch.nn.functional.cross_entropy(logits, batch["labelled_y"].argmax(-1))
    torch.testing.assert_close(terms["elbo"], -cross_entropy.detach())
    q = torch.distributions.Categorical(logits=guide.network(batch["x"]))
    torch.testing.assert_close(terms["entropy"], q.entropy().mean().detach())
    assert len(batch["x"]) == 28


def test_the_classifiers_two_halves_are_one_network():
    model, guide = ClassifierRecipe(classes=3).pair(dataset_of(blank()))
    assert model.network is guide.network
    assert len(parameters(model, guide)) == len(list(model.parameters()))


def seen(recipe, split):
    """Which data of a split have their labels seen, and which others are learned from."""
    numbered = Split(torch.arange(len(split))[:, None].float(), split.labels)
    pool, labelled = recipe.training_splits(numbered)
    return [part.x[:, 0].int().tolist() for part in (labelled, pool)]


@pytest.mark.parametrize("options", [{}, {"stratified": False}, {"split": "article", "data": "mnist"}])
@pytest.mark.parametrize("recipe", [partial(ClassifierRecipe, classes=3), partial(GMVAERecipe, clusters=3)])
def test_the_labels_are_drawn_by_their_own_seed_where_they_have_one(recipe, options, split):
    by = {
        (seed, label_seed): seen(recipe(labels=9, seed=seed, label_seed=label_seed, **options), split)
        for seed in (1, 2)
        for label_seed in (None, 1, 7)
    }
    assert by[1, None] == by[1, 1] == by[2, 1]
    assert by[1, 7] == by[2, 7]
    assert set(by[1, 7][0]) != set(by[1, 1][0]) != set(by[2, None][0])


def test_the_classifier_learns_from_the_first_of_the_others_or_from_all_or_from_the_labelled_alone(split):
    labelled, others = seen(ClassifierRecipe(classes=3, labels=9), split)
    assert sorted(labelled + others) == list(range(40))
    for number, pool in ((0, labelled), (1, others[:1]), (20, others[:20]), (31, others)):
        assert seen(ClassifierRecipe(classes=3, labels=9, unlabelled=number), split) == [labelled, pool]
    with pytest.raises(UserError, match=r"^`unlabelled` 32 is more than the 31 training data left$"):
        seen(ClassifierRecipe(classes=3, labels=9, unlabelled=32), split)
    assert (
        seen(ClassifierRecipe(classes=3, labels=40), split)[0] == seen(ClassifierRecipe(classes=3, labels=40), split)[1]
    )


def test_the_mixture_learns_from_all_data_be_they_labelled_or_not(split):
    labelled, pool = seen(GMVAERecipe(clusters=3, labels=9), split)
    assert pool == list(range(40))
    assert len(labelled) == 9
    assert GMVAERecipe(clusters=3).training_splits(split) == (split, None)


@pytest.mark.parametrize("network", ["article", "paper"])
def test_the_nets_of_the_article_and_of_the_paper_have_their_noise(network):
    """And the article's its weights, drawn from Normal(0, 0.02)."""
    recipe = ClassifierRecipe(classes=10, network=network)
    model, _ = recipe.pair(dataset_of(blank((1, 28, 28))))
    x = torch.rand(8, 1, 28, 28)
    assert not torch.equal(model.network(x), model.network(x))
    model.eval()
    assert torch.equal(model.network(x), model.network(x))
    layers = [part for part in model.modules() if isinstance(part, torch.nn.Linear)]
    if network == "article":
        assert layers[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    else:
        assert [layer.out_features for layer in layers] == [1200, 600, 300, 150, 10]


def test_a_mixture_with_known_parameters_is_recovered():
    """Two groups of points: the clusters are found, and the story's draws have the groups' means and spread."""
    torch.manual_seed(2)
    labels = torch.arange(200) % 2
    x = torch.randn(200, 2) * 0.3 + torch.tensor([[-1.0, 0.5], [1.0, -0.5]])[labels]
    split = Split(x.float(), labels)
    recipe = GMVAERecipe.preset("table", clusters=2, epochs=30)
    pair = recipe.pair(Dataset("rows", "grey", split, split, split, ("a", "b")))
    optimizer = torch.optim.Adam(parameters(*pair), lr=recipe.learning_rate)
    batches = recipe.batches(Dataset("rows", "grey", split, split, split, ("a", "b")), size=50)
    for _ in fit(*pair, batches, recipe.training_objective(pair[1], split), optimizer, epochs=recipe.epochs):
        pass
    inferred = predict(pair[1].classify, [x])
    assert score(inferred, labels, 2)["accuracy"] > 0.99
    cluster = inferred[labels == 0].mode().values
    drawn = generate(pair[0], ["z"], 4000, y=torch.eye(2)[cluster].expand(4000, 2))["z"]
    replicates = pair[0].likelihood_of(drawn).sample()
    torch.testing.assert_close(replicates.mean(0), torch.tensor([-1.0, 0.5]), rtol=0, atol=0.1)
    torch.testing.assert_close(replicates.std(0), torch.full((2,), 0.3), rtol=0, atol=0.1)


@pytest.mark.parametrize("options", [{"tied": True}])
def test_an_autoencoder_refuses_what_it_has_no_use_for(options):
    with pytest.raises(UserError):
        AutoencoderRecipe(**options)


def test_an_unknown_recipe_or_option_in_json_is_refused():
    with pytest.raises(UserError, match="did you mean 'vae'"):
        from_json({"recipe": "vaes"})
    with pytest.raises(UserError, match="latent_dims"):
        from_json({"recipe": "vae", "latent_dims": 3})


def test_the_readme_holds_the_table_of_recipes():
    from pathlib import Path

    assert table() in (Path(__file__).parents[2] / "README.md").read_text()
