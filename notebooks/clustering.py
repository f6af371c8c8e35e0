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
# # Clustering with a Gaussian-mixture VAE
#
# A VAE with one more latent: a category `y`, the cluster, is drawn first, and each cluster has its own Normal prior of
# `z`. This notebook clusters images without labels, then classifies them with a hundred labels, and finally clusters
# points in the plane.
#
# | | on paper | in code |
# | --- | --- | --- |
# | story | $y$ uniform, $z \mid y$ Normal, $x \mid z$ Bernoulli | `pyro_models.GMVAE` |
# | guide | $q(y \mid x)$ categorical, $q(z \mid x, y)$ Normal | `guides.GMVAEGuide` |
# | bound | $\mathrm{E}_q[\log p(x, y, z) - \log q(y, z \mid x)]$ | `pyro_models.objectives` |
# | beside the bound | terms of $q(y \mid x)$: consistency, marginal KL, entropy | `pyro_models.objectives` |

# %%
# %matplotlib inline
import inspect
import os
import warnings
from dataclasses import replace

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display

import pyro_models as ps
from pyro_models.guides import GMVAEGuide
from pyro_models import GMVAE, metrics, plots
from pyro_models.data import Dataset, Split, to_float
from pyro_models.distributions import RelaxedOneHotCategorical
from pyro_models.likelihood import UntrustedEstimate, comparison_table
from pyro_models.recipes import GMVAERecipe
from pyro_models.training import cosine, parameters

SHORT = bool(os.environ.get("PYRO_STORIES_SHORT"))  # on scikit-learn's small digits, in about a minute
if SHORT:
    warnings.simplefilter("ignore", UntrustedEstimate)  # a short run has few samples, and its figures are no result
dataset = ps.load("digits" if SHORT else "mnist")
EPOCHS = 20 if SHORT else GMVAERecipe.preset("dense").epochs
print(f"{dataset.name}: {len(dataset.train)} training, {len(dataset.test)} test images of {dataset.shape}")

# %%
print(GMVAE.__doc__)
print(GMVAEGuide.__doc__)

# %% [markdown]
# The story itself is four lines. `pyro.sample(name, distribution)` draws `name` from the distribution, and with `obs=`
# it conditions on an observed value instead; `pyro.plate` declares the data independent of each other.

# %%
print(inspect.getsource(GMVAE.forward))

# %% [markdown]
# Called with images, the program conditions on them. Called without, it generates images, of clusters that it draws or
# of given ones. This one is not trained yet, so all its clusters look alike:

# %%
recipe = GMVAERecipe.preset("dense", data=dataset.name, epochs=EPOCHS)  # no adversarial term: that has a notebook
if SHORT:
    recipe = replace(recipe, batch_size=64, learning_rate=3e-3)  # more steps, and longer ones
torch.manual_seed(recipe.seed)
untrained, _ = recipe.pair(dataset)
with metrics.eval_mode(untrained):
    images = untrained(y=torch.eye(recipe.clusters), batch=recipe.clusters)
display(plots.image_grid(images, recipe.clusters, "an image of each cluster, from the untrained story"))

# %% [markdown]
# ## Differentiating through a discrete draw
#
# Training follows the gradient of the bound with respect to the guide's parameters, and a draw of `z` has one: it is
# `loc + scale * noise`. A draw of `y` has none: a category does not change smoothly with its probabilities. The
# Gumbel-softmax or Concrete distribution *relaxes* it: a draw becomes a point of the simplex,
# `softmax((log-probabilities + noise) / temperature)`, which does change smoothly with the probabilities.
#
# Here are 100 draws of a category with six values, exact and then relaxed at five temperatures. A column is a draw;
# black is 1, white is 0. The relaxed draws use the same noise at every temperature.

# %%
probabilities = torch.tensor([0.05, 0.05, 0.1, 0.1, 0.2, 0.5])
torch.manual_seed(1)
panels = {"exact": dist.OneHotCategorical(probabilities).sample((100,))}
for temperature in (0.1, 0.5, 1.0, 2.0, 10.0):
    torch.manual_seed(2)
    relaxed = RelaxedOneHotCategorical(torch.tensor(temperature), probs=probabilities)
    panels[f"relaxed, temperature {temperature:g}"] = relaxed.sample((100,))
display(plots.simplex_draws(panels))
for title, draws in panels.items():
    print(f"{title:>26}: the largest entry of a draw is {draws.amax(-1).mean():.2f} on average")

# %% [markdown]
# At a low temperature a relaxed draw is nearly one-hot, and the mean of many draws is close to the probabilities. As
# the temperature rises, the draws tend to the uniform point, the same share of every value, whatever the probabilities
# are. A low temperature thus has the smaller bias, and a high one the gradient of the smaller variance. Training below
# uses a temperature in between:

# %%
print("temperature", recipe.temperature)

# %% [markdown]
# ## Without labels
#
# The bound measures how well images are explained, not whether clusters mean anything. The latent `z` can explain a
# digit without the help of `y`, and KL(q(y | x) || uniform) is smallest when q(y | x) is uniform, whatever x is. Where
# clusters are used, they may as well divide the images by slant, or by the thickness of the stroke; some clusters may
# have two digits and others none. All of that can have a good bound. So the recipe adds three terms to the loss, each
# of which states an assumption about clusters:
#
# * **consistency** (`consistency`), KL(q(y | x) || q(y | augmented x)): a small random affine map of an image does not
#   change its cluster;
# * **marginal KL** (`marginal_kl`), KL(mean of q(y | x) || uniform): over a batch, all clusters are used about equally;
# * **entropy** (`entropy`), the mean entropy of q(y | x): the cluster of each image is inferred with confidence.
#
# The last two differ from the bound's own KL: that one is smallest if *each* q(y | x) is uniform, these are if their
# average is uniform and each one is confident. Where clusters are of very different sizes, `marginal_kl` should have
# less weight; where an affine map changes what an image is, `consistency` is wrong. With them
# the loss is no longer a bound, which is why `elbo` is always reported beside it.


# %%
def train(recipe: GMVAERecipe, dataset: Dataset):
    """Train a recipe's pair; return it with its terms, and the scores of its clusters, over the epochs."""
    torch.manual_seed(recipe.seed)
    model, guide = recipe.pair(dataset)
    optimizer = torch.optim.Adam(parameters(model, guide), lr=recipe.learning_rate, fused=True)
    rate = cosine(recipe.learning_rate) if recipe.schedule == "cosine" else None
    objective, batches = recipe.training_objective(guide, dataset.train), recipe.batches(dataset)
    rows = []
    for epoch in ps.fit(
        model, guide, batches, objective, optimizer, epochs=recipe.epochs, seed=recipe.seed, learning_rate=rate
    ):
        row = {"epoch": epoch.number} | {f"train_{name}": value for name, value in epoch.terms.items()}
        scores = score_clusters(guide, recipe, dataset)
        rows.append(row | {f"test_{name}": value for name, value in scores.items()})
    return model, guide, rows


def infer(guide: GMVAEGuide, split: Split) -> torch.Tensor:
    """Return the likeliest cluster under q(y | x) for each datum of a split: [n]."""
    return metrics.predict(guide.classify, to_float(split.x, "grey").split(1000))


def score_clusters(guide: GMVAEGuide, recipe: GMVAERecipe, dataset: Dataset) -> dict[str, float]:
    """Score the clusters that a guide infers for the test data against their labels."""
    return metrics.score(infer(guide, dataset.test), dataset.test.labels, recipe.clusters, supervised=recipe.labels > 0)


model, guide, rows = train(recipe, dataset)
beside = ["consistency", "marginal_kl", "entropy"]
display(plots.learning_curves(rows, {"elbo": recipe.unit(dataset)} | dict.fromkeys(beside, "nats"), ["train"]))

# %% [markdown]
# Each term is drawn without its weight. At first q(y | x) is nearly uniform for every image, so that consistency and
# marginal KL are close to 0. As the inferred clusters become confident the entropy falls, and the other two terms begin
# to matter.
#
# How good are the clusters? The labels of the test images have played no part in the training, and they are used
# here for the scores alone:
#
# * **Hungarian accuracy**: match clusters to labels one to one in the best way; the share of images that agree;
# * **purity**: assign each cluster its commonest label; the share of images that agree;
# * **NMI**: the normalised mutual information of clusters and labels, 0 to 1;
# * **ARI**: the adjusted Rand index, about 0 by chance and 1 where clusters are labels.
#
# Beside them, the same net trained as long on the bound alone.

# %%
bare = replace(recipe, consistency=0.0, marginal_kl=0.0, entropy=0.0)
bare_model, bare_guide, bare_rows = train(bare, dataset)

COLUMNS = {
    "accuracy": "Hungarian accuracy",
    "purity": "purity",
    "nmi": "NMI",
    "ari": "ARI",
    "clusters_used": "clusters used",
}


def score_table(scores: dict[str, dict[str, float]]) -> Markdown:
    """Show scores by title, a line each."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|" + " --- |" * (1 + len(COLUMNS))]
    lines += ["| " + " | ".join([title, *(f"{each[c]:.3g}" for c in COLUMNS)]) + " |" for title, each in scores.items()]
    return Markdown("\n".join(lines))


scores = {
    "the bound alone": score_clusters(bare_guide, bare, dataset),
    "with the three terms": score_clusters(guide, recipe, dataset),
}
display(score_table(scores))
display(plots.learning_curves(rows, {"accuracy": COLUMNS["accuracy"], "nmi": COLUMNS["nmi"]}, ["test"]))

# %% [markdown]
# ### Images of each cluster
#
# First the guide's view: ten test images of each inferred cluster, a row a cluster. A row is blank where a cluster has
# no more images.


# %%
def show_members(guide: GMVAEGuide, recipe: GMVAERecipe) -> None:
    """Show ten test images of each inferred cluster, a row a cluster."""
    inferred = infer(guide, dataset.test)
    sheet = torch.zeros(recipe.clusters, 10, *dataset.shape)
    for cluster, row in enumerate(sheet):
        images = to_float(dataset.test.x[inferred == cluster][:10], recipe.pixels)
        row[: len(images)] = images
    display(plots.image_grid(sheet.flatten(0, 1), 10, "test images of each inferred cluster"))


show_members(guide, recipe)

# %% [markdown]
# Then the story's view: images generated from a cluster. `y` is given, `z` is drawn, and the decoder's mean is shown.
# The bound alone comes first, then the three terms.


# %% figure="gmvae-clusters.png"
def one_hot_rows(clusters: int, number: int) -> torch.Tensor:
    """Return one-hot y, `number` rows of the first cluster, then of the second, ...: [clusters * number, clusters]."""
    return torch.eye(clusters).repeat_interleave(number, 0)


def show_samples(model: GMVAE, recipe: GMVAERecipe, title: str) -> None:
    """Show ten mean images of each cluster, a row a cluster."""
    y = one_hot_rows(recipe.clusters, 10)
    display(
        plots.image_grid(metrics.generate(model, ["x"], len(y), y=y)["x"], 10, f"ten images of each cluster, {title}")
    )


show_samples(bare_model, bare, "the bound alone")
show_samples(model, recipe, "with the three terms")

# %% [markdown]
# Along a row the style changes: the cluster is in `y`, the style in `z`. How far a row keeps to one digit, or mixes
# two that look alike, is what the scores above measure. Which cluster has which digit depends on the seed, so the
# clusters are sorted by the label that they match best before they are counted:


# %% figure="gmvae-confusion.png"
def show_confusion(guide: GMVAEGuide, recipe: GMVAERecipe) -> None:
    """Show how many test images have each cluster and label; a cluster stands in the row of the label it matches."""
    counts = metrics.contingency(infer(guide, dataset.test), dataset.test.labels, recipe.clusters)
    order = list(range(recipe.clusters)) if recipe.labels else [cluster for cluster, _ in metrics.matching(counts)]
    display(plots.confusion_matrix(counts[order], order))


show_confusion(guide, recipe)

# %% [markdown]
# Images above their reconstructions, each decoded from the mean of q(z | x, y) at the likeliest cluster:

# %%
examples = to_float(torch.stack([dataset.test.x[dataset.test.labels == digit][0] for digit in range(10)]), "grey")
display(plots.reconstructions(examples, metrics.reconstruct(model, guide, {"x": examples})))

# %% [markdown]
# ### The latents
#
# The mean of q(z | x, y) for a part of the test images, laid out in the plane by t-SNE so that neighbours stay
# neighbours; coloured first by the label, which the training did not use, then by the inferred cluster. The
# colours of the two pictures need not agree, but the groups should.

# %%
subset = dataset.test[: 150 if SHORT else 2000]
title = f"t-SNE of the {recipe.latent_dim}-D latents of {len(subset)} test images"
panel = {title: plots.tsne(metrics.encode(guide, [recipe.batch(dataset, subset)]))}
display(plots.latent_map(panel, subset.labels))
display(plots.latent_map(panel, infer(guide, subset), legend="cluster"))

# %% [markdown]
# And the prior of each cluster: draws of p(z | y), along the two axes in which the clusters differ most.


# %%
def show_priors(model: GMVAE, recipe: GMVAERecipe) -> None:
    """Show p(z | y) of each cluster; of more than two dimensions the two in which the clusters differ most."""
    y, name = one_hot_rows(recipe.clusters, 300), "z"
    z = metrics.generate(model, ["z"], len(y), y=y)["z"]
    with metrics.eval_mode(model):
        prior = model.prior(torch.eye(recipe.clusters))
    axes = torch.eye(2)
    if recipe.latent_dim > 2:
        axes = torch.linalg.svd(prior.mean - prior.mean.mean(0), full_matrices=False).Vh[:2].T
        name = "principal axes of loc(y): z"
    covariances = axes.T @ torch.diag_embed(prior.variance) @ axes
    display(plots.components((z @ axes).chunk(recipe.clusters), prior.mean @ axes, covariances, name))


show_priors(model, recipe)

# %% [markdown]
# Clusters that overlap here may lie apart along the axes that are not drawn.
#
# ### The article's own setting
#
# The introductory article that this notebook follows trains four convolutional nets with two latents, no terms beside
# the bound, and a weight of KL(q(z | x, y) || p(z | y)) above 1 (`beta`). That setting is a preset:

# %%
article = GMVAERecipe.preset("clustering-article", data=dataset.name, epochs=5)
for half in article.pair(dataset):
    for name, part in half.named_children():
        print(f"{name:>10}: {sum(p.numel() for p in part.parameters()):,} parameters")
print(
    "\npython train.py gmvae --preset clustering-article --data mnist\n\nIts options:",
    GMVAERecipe.presets["clustering-article"],
)

# %% [markdown]
# In full, this notebook trains it for a few epochs and shows its clusters. The short form leaves that out.

# %%
if not SHORT:
    article_model, article_guide, _ = train(article, dataset)
    show_samples(article_model, article, f"the article's setting, epoch {article.epochs}")
    display(
        score_table({f"the article's setting, epoch {article.epochs}": score_clusters(article_guide, article, dataset)})
    )

# %% [markdown]
# ## With a hundred labels
#
# Suppose that a hundred of the training images have a label, ten of each digit:

# %%
supervised = replace(recipe, labels=100)
_, labelled = supervised.training_splits(dataset.train)
images = to_float(labelled.x[labelled.labels.argsort()], "grey")
display(plots.image_grid(images, 20, "the images whose labels are seen"))

# %% [markdown]
# The story needs no change: where `y` is known it is observed, as `x` is, and only `z` is latent. Two terms join the
# loss:
#
# * **cross-entropy**: -log q(y | x) at the known label. The bound of an image whose `y` is observed does not contain
#   q(y | x), which would learn nothing from the labels without this term;
# * **labelled ELBO**: a bound of log p(x, y), with as much weight as the labelled images have among all.
#
# The article passes the classifier's probabilities, already a softmax, to a cross-entropy that applies a softmax
# itself. The loss then cannot approach 0, however confident and right the classifier is, and its gradient is weak.
# Here the cross-entropy is the classifier's own log-probability. The difference, for a prediction that is certain and
# right:

# %%
certain, truth = F.one_hot(torch.tensor([3]), 10).float(), torch.tensor([3])
print(f"softmax applied twice: {F.cross_entropy(certain, truth):.3f} nats")
print(f"applied once:          {F.nll_loss(certain.clamp(min=1e-30).log(), truth):.3f} nats")

# %%
model_100, guide_100, rows_100 = train(supervised, dataset)
unit = supervised.unit(dataset)
terms = {"cross_entropy": "nats", "labelled_elbo": f"{unit}, y observed", "elbo": unit}
display(plots.learning_curves(rows_100, terms, ["train"]))

# %% [markdown]
# Now y = 3 is the digit 3, because the labels were seen so, and the accuracy of the last line needs no matching.
# The clusters with a hundred labels, to be compared with those above:

# %%
scores["with 100 labels as well"] = score_clusters(guide_100, supervised, dataset)
display(score_table(scores))
show_confusion(guide_100, supervised)
show_samples(model_100, supervised, "with 100 labels")

# %% [markdown]
# ## Swapping the estimator
#
# So far one estimator did the work: one relaxed draw of `y`. It is one of several, each selected by the option `elbo`.
# They differ in two ways.
#
# **Which story they bound.** `graph`, `enum` and `rws` leave the story as it is: `y` is one-hot. `graph`
# draws it and takes the score function's gradient, `enum` sums over all its values, and `rws` (reweighted wake-sleep)
# weights several draws without differentiating any. `trace`, `iwae` and `dreg` run a *relaxed* story, in which `y`
# is a point on the simplex; what they bound is another number, which cannot be compared with the first.
# `mean-field` mixes the two, with relaxed draws and the KL of the discrete y: a good loss, and a bound of
# neither.
#
# **The variance of their gradient.** The same weights and the same images, gradients drawn again and again: the
# signal is the length of the mean gradient, the noise its standard deviation over the draws.

# %%
options = {name: {} for name in ("trace", "mean-field", "graph", "enum")}
options |= {name: {"particles": 5} for name in ("iwae", "dreg", "rws")}
recipes = {name: replace(recipe, elbo=name, **more) for name, more in options.items()}
images = recipe.batch(dataset, dataset.train[: 32 if SHORT else 64])
estimators = {name: each.bound() for name, each in recipes.items()}
comparisons = ps.compare(model, guide, images, estimators, draws=5 if SHORT else 50)
display(Markdown(comparison_table(comparisons, {name: recipe.bound_of for name, recipe in recipes.items()})))
display(
    plots.estimator_comparison(
        {
            f"{name}{' (relaxed)' if recipes[name].relaxes else ''}": (each.bound, each.error)
            for name, each in comparisons.items()
        },
        {name: each.signal_to_noise for name, each in comparisons.items()},
        {name: each.milliseconds for name, each in comparisons.items()},
        recipe.unit(dataset),
    )
)
log_p = ps.log_likelihood(model, guide, images, samples=100 if SHORT else 200).mean()
print(f"log p(x) of these images under the story, by importance sampling: {log_p:.2f} {recipe.unit(dataset)}")

# %% [markdown]
# `component` is p(z | y), `decoder` p(x | z), `classifier` q(y | x) and `encoder` q(z | x, y). A part has no dot
# where its gradient has no noise at all, or no signal that so few draws could measure.
#
# Only the bounds of the lines marked "the story" can be compared with `log p(x)`, and their means lie below it;
# `rws`, like `iwae` and `dreg`, weights several draws for each image, so that its bound is the tighter. `enum` has no
# noise from `y`, at the cost of one decoder pass for each value. The terms beside the bound are the same under all
# of them, because they are computed from q(y | x) itself, not from draws of `y`. To train with another:
# `replace(recipe, elbo="enum")`, or `python train.py gmvae --elbo enum`.

# %% [markdown]
# ## In low dimensions
#
# Nothing in the story requires `x` to be an image. With a Normal likelihood of fixed scale, `x` may be a row of a
# table. (A learned scale can shrink towards 0 around single rows, which makes training unstable.)
# The augmentation of `consistency` is then a little noise on each row, in place of affine maps. The preset is called
# `table`.
#
# First three round groups, then a pinwheel of five bent arms. Scikit-learn's Gaussian mixture has the same number
# of clusters, each an ellipse.


# %% figure="gmvae-points.png"
def show_points(model: GMVAE, guide: GMVAEGuide, recipe: GMVAERecipe, dataset: Dataset) -> None:
    """Show a table by inferred cluster, rows drawn from the story, and its density."""
    y = one_hot_rows(recipe.clusters, len(dataset.train) // recipe.clusters)
    with metrics.eval_mode(model):
        drawn = model(y=y, batch=len(y))
    z = metrics.generate(model, ["z"], 200 if SHORT else 2000)["z"]

    def density(x: torch.Tensor) -> torch.Tensor:
        """Average p(x | z) over z drawn from the prior."""
        with metrics.eval_mode(model):
            likelihood = model.likelihood_of(z)
            return torch.cat([likelihood.log_prob(part[:, None]).exp().mean(-1) for part in x.split(500)])

    inferred = infer(guide, dataset.train)
    display(plots.mixture_points(dataset.train.x, inferred, drawn, y.argmax(-1), dataset.columns, density))


for name, clusters in (("blobs", 3), ("pinwheel", 5)):
    points = ps.load(name)
    plane = GMVAERecipe.preset("table", data=name, clusters=clusters)
    plane = replace(plane, epochs=60 if SHORT else plane.epochs)
    plane_model, plane_guide, _ = train(plane, points)
    show_points(plane_model, plane_guide, plane, points)
    mixture = metrics.gaussian_mixture(points.train.x, points.test.x, points.test.labels, clusters, seed=plane.seed)
    display(
        score_table(
            {f"{name}, the story": score_clusters(plane_guide, plane, points), f"{name}, Gaussian mixture": mixture}
        )
    )
    rows = plane.batch(points, points.test)
    log_p = ps.log_likelihood(plane_model, plane_guide, rows, samples=50 if SHORT else 200).mean()
    print(
        f"log p(x) of the test rows: the story {log_p:.2f}, Gaussian mixture {mixture['log_likelihood']:.2f}",
        plane.unit(points),
    )

# %% [markdown]
# The prior of each cluster is an ellipse too, in the space of z. It is the decoder that bends it into an arm:

# %%
show_priors(plane_model, plane)

# %% [markdown]
# From the command line, with a run folder, a report and every picture above:
#
#     python train.py gmvae --preset table --data pinwheel --clusters 5
#     python train.py gmvae --preset table --data mine.csv --clusters 4
#
# A `.csv` file of your own needs columns of numbers, with or without a line of names; a column `label`, if there
# is one, is used for the scores alone.
