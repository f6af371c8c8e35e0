# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Clustering with a VAE, told as a story
#
# A VAE whose story has one more line: before anything else, a *kind* `y` is drawn, and each kind has its own
# place in the space of codes. If the model makes good use of its kinds, they are clusters. This notebook looks
# for them without labels, then with a hundred labels, and last among points in the plane.
#
# | | on paper | in code |
# | --- | --- | --- |
# | story | $y$ uniform, $z \mid y$ Normal, $x \mid z$ Bernoulli | `pyro_models.gmvae.GMVAE` |
# | guide | $q(y \mid x)$ categorical, $q(z \mid x, y)$ Normal | `guides.gmvae.GMVAEGuide` |
# | bound | $\mathrm{E}_q[\log p(x, y, z) - \log q(y, z \mid x)]$ | `pyro_models.objectives` |
# | beside the bound | what is known of kinds before any is seen | `pyro_models.objectives.terms` |

# %%
# %matplotlib inline
import inspect
import os
from dataclasses import replace
from functools import partial

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display

from guides.gmvae import GMVAEGuide
from pyro_models.metrics.evaluation import codes, reconstruct
from pyro_models import plots
from pyro_models.likelihood.importance import log_likelihood
from pyro_models.likelihood.comparison import compare, table
from pyro_models.metrics.clusters import confusion, gaussian_mixture, infer_kinds, matching, score
from pyro_models.metrics.evaluation import draw, evaluation
from pyro_models.data import Batches, Dataset, batch_of, load, to_float
from pyro_models.distributions import RelaxedOneHotCategorical
from pyro_models.gmvae import GMVAE
from pyro_models.training.fit import fit, parameters
from pyro_models.training.schedules import cosine
from pyro_models.recipes.gmvae import GMVAERecipe

SHORT = bool(os.environ.get("PYRO_STORIES_SHORT"))  # a few epochs on scikit-learn's digits, for a quick look
dataset = load("digits" if SHORT else "mnist")
EPOCHS = 8 if SHORT else GMVAERecipe().epochs
print(f"{dataset.name}: {len(dataset.train)} training, {len(dataset.test)} test images of {dataset.shape}")

# %%
print(GMVAE.__doc__)
print(GMVAEGuide.__doc__)

# %% [markdown]
# The story itself is four lines. `pyro.sample(name, distribution)` stands for "draw `name` from this
# distribution", and with `obs=` for "we have seen it, and it was this"; `pyro.plate` says that the data are
# independent of each other.

# %%
print(inspect.getsource(GMVAE.forward))

# %% [markdown]
# Called with images, the program scores them. Called without, it makes images up, of kinds that it draws or of
# kinds that it is told. This one has learned nothing yet, so all its kinds look alike:

# %%
recipe = GMVAERecipe(data=dataset.name, epochs=EPOCHS)
if SHORT:
    recipe = replace(recipe, batch_size=64, learning_rate=3e-3)  # more steps, and longer ones
torch.manual_seed(recipe.seed)
untrained, _ = recipe.pair(dataset.shape)
with evaluation(untrained):
    images = untrained(y=torch.eye(recipe.kinds), batch=recipe.kinds)
display(plots.image_grid(images, recipe.kinds, "an image of each kind, from the untrained story"))

# %% [markdown]
# ## A die that can be differentiated
#
# Training moves the guide along the gradient of the bound, and a draw of `z` lets a gradient through: it is
# `loc + scale * noise`. A draw of `y` does not. It is one face of a die, and faces do not change smoothly. The
# Gumbel-softmax or Concrete distribution *relaxes* the die: a roll becomes a point between the faces,
# `softmax((log-probabilities + noise) / temperature)`, which does change smoothly with the probabilities.
#
# Here is a loaded die, rolled 100 times exactly, then relaxed at five temperatures. A column is a roll; black is
# 1, white is 0. The relaxed rolls use the same noise at every temperature.

# %%
loaded = torch.tensor([0.05, 0.05, 0.1, 0.1, 0.2, 0.5])
torch.manual_seed(1)
panels = {"exact": dist.OneHotCategorical(loaded).sample((100,))}
for temperature in (0.1, 0.5, 1.0, 2.0, 10.0):
    torch.manual_seed(2)
    die = RelaxedOneHotCategorical(torch.tensor(temperature), probs=loaded)
    panels[f"relaxed, temperature {temperature:g}"] = die.sample((100,))
display(plots.simplex_draws(panels))
for title, rolls in panels.items():
    print(f"{title:>26}: the largest entry of a roll is {rolls.amax(-1).mean():.2f} on average")

# %% [markdown]
# At a low temperature a relaxed roll is one-hot, or nearly so, and the mean of many rolls is close to the die's
# own probabilities. As the temperature rises, the rolls fade and tend to the uniform point, the same share of
# every face; the loading of the die is hardly seen any more. A low temperature is thus the more faithful, and a
# high one has the smoother gradient. Training below uses a temperature in between:

# %%
print("temperature", recipe.temperature)

# %% [markdown]
# ## Without labels
#
# The bound alone asks that images be explained, not that kinds mean anything. The code `z` is rich enough to
# explain a digit without the help of `y`, and KL(q(y | x) || uniform) is smallest when the guide says nothing
# about `y` at all. Where kinds are used, they may as well divide the images by slant, or by the thickness of the
# stroke, some may take two digits and others none. All of that is a good bound. So the recipe adds three terms,
# each of which says something about kinds that we know beforehand:
#
# * **consistency**, KL(q(y | x) || q(y | x moved a little)): a small shift, turn, stretch or slant of an image
#   leaves its kind what it is;
# * **balance**, KL(mean of q(y | x) || uniform): over a batch, all kinds are used about alike;
# * **decision**, the entropy of q(y | x): the guide makes up its mind about each image.
#
# The last two differ from the bound's own KL: that one wants *each* q(y | x) to be uniform, these want only the
# average to be uniform and each one to be sure. The terms are assumptions. Where groups are of very different
# sizes, balance should weigh less; where a moved image is another kind of image, consistency is wrong. With them
# the loss is no longer a bound, which is why `elbo` is always reported beside it.


# %%
def train(recipe: GMVAERecipe, dataset: Dataset):
    """Train a recipe's pair; return it with its terms, and the scores of its kinds, over the epochs."""
    torch.manual_seed(recipe.seed)
    model, guide = recipe.pair(dataset.shape)
    optimizer = torch.optim.Adam(parameters(model, guide), lr=recipe.learning_rate, fused=True)
    rate = cosine(recipe.learning_rate) if recipe.schedule == "cosine" else None
    pool, seen = recipe.pools(dataset.train)  # all of them; and None, unless the recipe has labels
    batches = Batches(
        pool,
        size=recipe.batch_size,
        seed=recipe.seed,
        to_batch=partial(batch_of, pixels=recipe.pixels),
        labelled=seen,
        to_labelled=partial(batch_of, pixels=recipe.pixels, classes=recipe.kinds),
    )
    objective, rows = recipe.training_objective(guide, dataset.train), []
    for epoch in fit(
        model, guide, objective, optimizer, batches, epochs=recipe.epochs, seed=recipe.seed, learning_rate=rate
    ):
        row = {"epoch": epoch.number} | {f"train_{name}": value for name, value in epoch.terms.items()}
        scores = score_kinds(guide, recipe, dataset)
        rows.append(row | {f"test_{name}": value for name, value in scores.items()})
    return model, guide, rows


def score_kinds(guide: GMVAEGuide, recipe: GMVAERecipe, dataset: Dataset) -> dict[str, float]:
    """Score the kinds that a guide infers for the test data against their labels."""
    inferred = infer_kinds(guide, dataset.test, recipe.pixels)
    return score(inferred, dataset.test.labels, recipe.kinds, named=recipe.labels > 0)


model, guide, rows = train(recipe, dataset)
beside = ["consistency", "marginal_kl", "entropy"]
display(plots.learning_curves(rows, {"elbo": recipe.unit(dataset)} | dict.fromkeys(beside, "nats"), ["train"]))

# %% [markdown]
# `marginal_kl` is what balance weighs, `entropy` what decision weighs; each term is drawn without its weight.
# At first the guide knows nothing: q(y | x) is uniform, and nothing could be more consistent or better balanced.
# As it makes up its mind the entropy falls, and the other two have something to say.
#
# What are the kinds worth? The labels of the test images have played no part in the training, and they are used
# here for the score alone:
#
# * **Hungarian accuracy**: match kinds to labels one to one in the best way; the share of images that agree;
# * **purity**: give each kind its commonest label; the share of images that agree;
# * **NMI**: the normalised mutual information of kinds and labels, 0 to 1;
# * **ARI**: the adjusted Rand index, about 0 by chance and 1 where kinds are labels.
#
# Beside them, the same net trained as long on the bound alone.

# %%
bare = replace(recipe, consistency=0.0, balance=0.0, decision=0.0)
bare_model, bare_guide, bare_rows = train(bare, dataset)

COLUMNS = {"accuracy": "Hungarian accuracy", "purity": "purity", "nmi": "NMI", "ari": "ARI", "kinds_used": "kinds used"}


def score_table(found: dict[str, dict[str, float]]) -> Markdown:
    """Show scores, a line for each of some titles."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|" + " --- |" * (1 + len(COLUMNS))]
    lines += ["| " + " | ".join([title, *(f"{each[c]:.3g}" for c in COLUMNS)]) + " |" for title, each in found.items()]
    return Markdown("\n".join(lines))


scores = {
    "the bound alone": score_kinds(bare_guide, bare, dataset),
    "with the three terms": score_kinds(guide, recipe, dataset),
}
display(score_table(scores))
display(plots.learning_curves(rows, {"accuracy": COLUMNS["accuracy"], "nmi": COLUMNS["nmi"]}, ["test"]))

# %% [markdown]
# ### What each kind looks like
#
# First the guide's view: ten test images of each inferred kind, a row a kind. A row is blank where a kind has no
# more images.


# %%
def show_sorted(guide: GMVAEGuide, recipe: GMVAERecipe) -> None:
    """Show ten test images of each inferred kind, a row a kind."""
    inferred = infer_kinds(guide, dataset.test, recipe.pixels)
    sheet = torch.zeros(recipe.kinds, 10, *dataset.shape)
    for kind, row in enumerate(sheet):
        images = to_float(dataset.test.x[inferred == kind][:10], recipe.pixels)
        row[: len(images)] = images
    display(plots.image_grid(sheet.flatten(0, 1), 10, "test images of each inferred kind"))


show_sorted(guide, recipe)

# %% [markdown]
# Then the story's view. It makes images of a kind: give it `y`, let it draw `z`, and decode. The bound alone comes
# first, then the three terms.


# %%
def each_kind(kinds: int, number: int) -> torch.Tensor:
    """Return one-hot kinds, so many of the first, then as many of the second, and so on: [kinds * number, kinds]."""
    return torch.eye(kinds).repeat_interleave(number, 0)


def show_kinds(model: GMVAE, recipe: GMVAERecipe, title: str) -> None:
    """Show ten mean images of each kind, a row a kind."""
    y = each_kind(recipe.kinds, 10)
    display(plots.image_grid(draw(model, ["x"], len(y), y=y)["x"], 10, f"ten images of each kind, {title}"))


show_kinds(bare_model, bare, "the bound alone")
show_kinds(model, recipe, "with the three terms")

# %% [markdown]
# Along a row the style changes: the kind is in `y`, the style in `z`. How far a row keeps to one digit, or mixes
# two that look alike, is what the scores above put into numbers. Which kind stands for which digit is an accident
# of the seed, so the kinds are sorted by the label that they match best before they are counted:


# %%
def show_confusion(guide: GMVAEGuide, recipe: GMVAERecipe) -> None:
    """Show how many test images are of each kind and label; a kind stands in the row of the label it matches."""
    counts = confusion(infer_kinds(guide, dataset.test, recipe.pixels), dataset.test.labels, recipe.kinds)
    order = list(range(recipe.kinds)) if recipe.labels else [kind for kind, _ in matching(counts)]
    display(plots.confusion_matrix(counts[order], order))


show_confusion(guide, recipe)

# %% [markdown]
# Images above their reconstructions, each decoded from the mean of q(z | x, y) at the likeliest kind:

# %%
examples = to_float(torch.stack([dataset.test.x[dataset.test.labels == digit][0] for digit in range(10)]), "grey")
display(plots.reconstructions(examples, reconstruct(model, guide, examples)))

# %% [markdown]
# ### The codes
#
# The mean of q(z | x, y) for some test images, laid out in the plane by t-SNE so that neighbours stay
# neighbours; coloured first by the label, which the model has not seen, then by the kind that it inferred. The
# colours of the two pictures need not agree, but the groups should.

# %%
some = dataset.test[: 300 if SHORT else 2000]
title = f"t-SNE of the {recipe.latent_dim}-D codes of {len(some)} test images"
panel = {title: plots.tsne(codes(guide, some, recipe.pixels))}
display(plots.latent_map(panel, some.labels))
display(plots.latent_map(panel, infer_kinds(guide, some, recipe.pixels), legend="kind"))

# %% [markdown]
# And where the story puts its kinds: draws of p(z | y), along the two axes in which the kinds differ most.


# %%
def show_components(model: GMVAE, recipe: GMVAERecipe) -> None:
    """Show p(z | y) of each kind; more than two dimensions along the two in which the kinds differ most."""
    y, name = each_kind(recipe.kinds, 300), "z"
    z = draw(model, ["z"], len(y), y=y)["z"]
    with evaluation(model):
        prior = model.prior(torch.eye(recipe.kinds))
    axes = torch.eye(2)
    if recipe.latent_dim > 2:
        axes = torch.linalg.svd(prior.mean - prior.mean.mean(0), full_matrices=False).Vh[:2].T
        name = "principal axes of loc(y): z"
    covariances = axes.T @ torch.diag_embed(prior.variance) @ axes
    display(plots.components((z @ axes).chunk(recipe.kinds), prior.mean @ axes, covariances, name))


show_components(model, recipe)

# %% [markdown]
# Kinds that overlap here may lie apart along the axes that are not drawn.
#
# ### The article's own setting
#
# The introductory article that this notebook follows trains four convolutional nets, a code of two numbers, no
# terms beside the bound, and a KL of `z` that weighs more than 1 (`beta`). That setting is a preset:

# %%
article = GMVAERecipe.preset("article", data=dataset.name, epochs=5)
article_pair = article.pair(dataset.shape)
for half in article_pair:
    for name, part in half.named_children():
        print(f"{name:>10}: {sum(p.numel() for p in part.parameters()):,} parameters")
print("\npython train.py gmvae --preset article --data mnist\n\nThe preset says:", GMVAERecipe.presets["article"])

# %% [markdown]
# In full, this notebook trains it for a few epochs and shows its kinds. The short form leaves that out.

# %%
if not SHORT:
    article_model, article_guide, _ = train(article, dataset)
    show_kinds(article_model, article, f"the article's setting, epoch {article.epochs}")
    display(
        score_table({f"the article's setting, epoch {article.epochs}": score_kinds(article_guide, article, dataset)})
    )

# %% [markdown]
# ## With a hundred labels
#
# Suppose that a hundred of the training images came with a label, ten of each digit:

# %%
taught = replace(recipe, labels=100)
_, seen = taught.pools(dataset.train)
display(plots.image_grid(to_float(seen.x[seen.labels.argsort()], "grey"), 20, "the images whose labels are seen"))

# %% [markdown]
# The story needs no change: where `y` is known it is observed, as `x` is, and the guide has only `z` left to
# infer. Two terms join the loss:
#
# * **cross-entropy**: -log q(y | x) at the known label. The bound of an image whose `y` is known never asks the
#   classifier, so that it would learn nothing from a label without this;
# * **labelled ELBO**: a bound of log p(x, y), with as much weight as the labelled images have among all.
#
# The article passes the classifier's probabilities, already a softmax, to a cross-entropy that applies a softmax
# itself. The loss then cannot approach 0, however sure and right the classifier is, and its gradient is weak.
# Here the cross-entropy is the classifier's own log-probability. The difference, for a guess that is certain and
# right:

# %%
certain, truth = F.one_hot(torch.tensor([3]), 10).float(), torch.tensor([3])
print(f"softmax applied twice: {F.cross_entropy(certain, truth):.3f} nats")
print(f"applied once:          {F.nll_loss(certain.clamp(min=1e-30).log(), truth):.3f} nats")

# %%
taught_model, taught_guide, taught_rows = train(taught, dataset)
unit = taught.unit(dataset)
terms = {"cross_entropy": "nats", "labelled_elbo": f"{unit}, y observed", "elbo": unit}
display(plots.learning_curves(taught_rows, terms, ["train"]))

# %% [markdown]
# Now kind 3 is the digit 3, because it was taught so, and the accuracy of the last line needs no matching. Before
# and after:

# %%
scores["with 100 labels as well"] = score_kinds(taught_guide, taught, dataset)
display(score_table(scores))
display(Markdown("Before, without labels:"))
show_confusion(guide, recipe)
display(Markdown("After, with 100 labels:"))
show_confusion(taught_guide, taught)
show_kinds(taught_model, taught, "with 100 labels")

# %% [markdown]
# ## Swapping the estimator
#
# So far one estimator did the work: one relaxed draw of `y`. It is one of several, and each is a word in the
# recipe. They differ in two ways.
#
# **Which story they bound.** `graph`, `enum` and `rws` leave the story as it is told: `y` is one-hot. `graph`
# draws it and takes the score function's gradient, `enum` sums over all kinds, and `rws` (reweighted wake-sleep)
# weighs several draws without differentiating any. `trace`, `iwae` and `dreg` run a *relaxed* story, in which `y`
# is a point on the simplex; what they bound is another number, and comparing it with the first means nothing.
# `mean-field` mixes the two, with relaxed draws and the KL of the exact kinds: a good loss, and a bound of
# neither.
#
# **How noisy their gradient is.** The same weights and the same images, gradients drawn again and again: the
# signal is the length of the mean gradient, the noise its standard deviation over the draws.

# %%
options = {name: {} for name in ("trace", "mean-field", "graph", "enum")}
options |= {name: {"particles": 5} for name in ("iwae", "dreg", "rws")}
recipes = {name: replace(recipe, elbo=name, **more) for name, more in options.items()}
x = {"x": to_float(dataset.train.x[:64], recipe.pixels)}
found = compare(model, guide, {name: one.bound() for name, one in recipes.items()}, [x], draws=10 if SHORT else 50)
display(Markdown(table(found, lambda name: recipes[name].bound_of)))
display(
    plots.estimator_comparison(
        {f"{name}{' (relaxed)' if recipes[name].relaxed else ''}": (c.bound, c.error) for name, c in found.items()},
        {name: one.signal_to_noise for name, one in found.items()},
        {name: one.milliseconds for name, one in found.items()},
        recipe.unit(dataset),
    )
)
evidence = log_likelihood(model, guide, dataset.train[:64], recipe.pixels, samples=200).mean()
print(f"log p(x) of these images under the story, by importance sampling: {evidence:.2f} {recipe.unit(dataset)}")

# %% [markdown]
# `component` is p(z | y), `decoder` p(x | z), `classifier` q(y | x) and `encoder` q(z | x, y). A part has no dot
# where its gradient has no noise at all, or no signal that so few draws could find.
#
# Only the lines of the table marked "the story" may be held against `log p(x)`, and their averages lie below it;
# `rws`, like `iwae` and `dreg`, weighs several draws for each image, so that its bound is the tighter. `enum` has no
# noise from `y` and pays for it with a decoder run for each kind. The terms beside the bound are the same under all
# of them, because they read q(y | x) itself and draw no `y`. To train with another: `replace(recipe, elbo="enum")`, or
# `python train.py gmvae --elbo enum`.

# %% [markdown]
# ## In low dimensions
#
# Nothing in the story says that `x` is an image. With a Normal likelihood of fixed scale, `x` may be a row of a
# table. (A scale that is learned can shrink towards nothing around single rows, which makes training unstable.)
# In place of affine maps, consistency now adds a little noise to each row. The preset is called `table`.
#
# First three round groups, then a pinwheel of five bent arms. Scikit-learn's Gaussian mixture has the same number
# of kinds, each an ellipse.


# %%
def show_points(model: GMVAE, guide: GMVAEGuide, recipe: GMVAERecipe, dataset: Dataset) -> None:
    """Show a table by inferred kind, what the story makes up, and the density of the story."""
    y = each_kind(recipe.kinds, len(dataset.train) // recipe.kinds)
    with evaluation(model):
        drawn = model(y=y, batch=len(y))
    z = draw(model, ["z"], 2000)["z"]

    def density(x: torch.Tensor) -> torch.Tensor:
        """Average p(x | z) over codes that the story drew."""
        with evaluation(model):
            likelihood = model.likelihood(model.decoder(z))
            return torch.cat([likelihood.log_prob(part[:, None]).exp().mean(-1) for part in x.split(500)])

    inferred = infer_kinds(guide, dataset.train, recipe.pixels)
    display(plots.mixture_points(dataset.train.x, inferred, drawn, y.argmax(-1), dataset.columns, density))


for name, kinds, epochs in (("blobs", 3, 15), ("pinwheel", 5, 30)):
    points = load(name)
    plane = GMVAERecipe.preset("table", data=name, kinds=kinds)
    plane = replace(plane, epochs=epochs) if SHORT else plane
    plane_model, plane_guide, _ = train(plane, points)
    show_points(plane_model, plane_guide, plane, points)
    mixture = gaussian_mixture(points, kinds, plane.seed)
    display(
        score_table(
            {f"{name}, the story": score_kinds(plane_guide, plane, points), f"{name}, Gaussian mixture": mixture}
        )
    )
    evidence = log_likelihood(plane_model, plane_guide, points.test, plane.pixels, samples=200).mean()
    print(
        f"log p(x) of the test rows: the story {evidence:.2f}, Gaussian mixture {mixture['log_likelihood']:.2f}",
        end=" ",
    )
    print(plane.unit(points))

# %% [markdown]
# In the space of codes a kind is an ellipse too. It is the decoder that bends it into an arm:

# %%
show_components(plane_model, plane)

# %% [markdown]
# From the command line, with a run folder, a report and every picture above:
#
#     python train.py gmvae --preset table --data pinwheel --kinds 5
#     python train.py gmvae --preset table --data mine.csv --kinds 4
#
# A `.csv` file of your own needs columns of numbers, with or without a line of names; a column `label`, if there
# is one, is used for the scores alone.
