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
# # Criticism: read the story, check the replicates, know the likelihood
#
# George Box described statistics as a loop: build a model, infer what is hidden, criticise what came of it, and build
# a better one. The other notebooks build and infer. This one criticises, with three questions that can be asked of any
# model:
#
# | question | asked by |
# | --- | --- |
# | What does the program say? | `story` |
# | Do data that it makes up look like real ones? Does its guide know what the story implies? | `check`, `calibrate` |
# | How probable are data that it has never seen, and how far below that is the bound? | `evidence`, `gap` |
#
# None of these knows which model it is asked about. The commands that do the same to a run are `python -m pyro_models
# story`, `check` and `likelihood`.

# %%
# %matplotlib inline
import copy
import os
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from IPython.display import Markdown, display

from pyro_models.checking.calibration import calibrate
from pyro_models.checking.predictive import check
from pyro_models.likelihood.importance import evidence
from pyro_models import plots
from pyro_models.likelihood.inference_gap import gap
from pyro_models.checking.replicates import replicate
from pyro_models.reading.printer import story
from pyro_models.checking.predictive import checks_table
from pyro_models.metrics.evaluation import evaluation
from pyro_models.checking.statistics import of_images, of_table
from pyro_models.data import Batches, batch_of, load, to_float
from pyro_models.training.fit import fit, parameters
from pyro_models.training.schedules import cosine
from pyro_models.recipes.gmvae import GMVAERecipe
from pyro_models.recipes.vae import VAERecipe

SHORT = bool(os.environ.get("PYRO_STORIES_SHORT"))  # a few epochs on scikit-learn's digits, for a quick look


def train(recipe, dataset):
    """Train a recipe's pair."""
    torch.manual_seed(recipe.seed)
    model, guide = recipe.pair(dataset.shape)
    optimizer = torch.optim.Adam(parameters(model, guide), lr=recipe.learning_rate, fused=True)
    batches = Batches(
        dataset.train, size=recipe.batch_size, seed=recipe.seed, to_batch=partial(batch_of, pixels=recipe.pixels)
    )
    objective = recipe.training_objective(guide, dataset.train)
    for epoch in fit(
        model, guide, objective, optimizer, batches, epochs=recipe.epochs, learning_rate=cosine(recipe.learning_rate)
    ):
        last = epoch
    print(f"{recipe.name}, epoch {last.number}: " + ", ".join(f"{k} {v:.2f}" for k, v in last.terms.items()))
    return model.eval(), guide.eval()


# %% [markdown]
# ## A story, read
#
# `story` runs a program and says what happened: which distribution stands at each site, what it was computed from,
# what was observed, over how many data. It reads no docstring, so it can't be out of date. Here is a VAE that has not
# learned anything yet, beside its guide:

# %%
digits = load("digits" if SHORT else "mnist", pixels="static")
recipe = VAERecipe(data=digits.name, pixels="static", latent_dim=10, epochs=10 if SHORT else 30)
torch.manual_seed(1)
untrained = recipe.pair(digits.shape)
images = to_float(digits.train.x[:8], recipe.pixels)
story(untrained[0], x=images, guide=untrained[1])

# %% [markdown]
# Any Pyro program will do. Rubin's eight schools (1981) have two latent numbers that all share, outside the plate, and
# one for each school within:


# %%
def schools(results, errors):
    """What coaching does to test scores in each of some schools."""
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.HalfCauchy(10.0))
    with pyro.plate("schools", len(results)):
        effect = pyro.sample("effect", dist.Normal(loc, scale))
        pyro.sample("result", dist.Normal(effect, errors), obs=results)


results = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
errors = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
story(schools, results, errors)

# %% [markdown]
# ## A model, checked
#
# Train the VAE, on pixels drawn black or white once and for all (`static`), so that what it draws is of the same kind
# as what it was shown.

# %%
model, guide = train(recipe, digits)

# %% [markdown]
# A *replicate* is a data set that the story makes up. A prior replicate starts from z ~ p(z): what the story believes
# without any data. A posterior replicate starts from the codes of the data themselves, z ~ q(z | x). Both end with a
# draw of x, never its mean, and never the data: Pyro's `Predictive(model, guide=guide)(x=x)` would return the x that
# it was given, because x is observed, and any check of that passes.

# %%
held_out = to_float(digits.test.x[:300], recipe.pixels)
with evaluation(model, guide):
    rows = [
        held_out,
        replicate(model, guide, {"x": held_out}).drawn["x"],
        replicate(model, None, {"x": held_out}).drawn["x"],
    ]
names = ["held-out data", "posterior replicate", "prior replicate"]
display(plots.image_rows(torch.stack([row[:12] for row in rows]), names, "data, and what the story makes up"))

# %% [markdown]
# They look like digits, more or less. A *statistic* says more or less of what: a plain function from images to
# numbers. Those that come with the package measure ink, place, stroke width, holes, symmetry, the mean of each pixel,
# and the distance to the nearest of these training images, which would be small if the story copied. One of your own
# is a function like them:


# %%
def widest(x):
    """How many columns have ink, of each image: [n, channel, height, width] to [n]."""
    return (x.amax((1, 2)) > 0.5).double().sum(-1)


training = to_float(digits.train.x[: 500 if SHORT else 5000], recipe.pixels)
statistics = {"x": of_images(training) | {"columns with ink": widest}}
found = check(model, guide, {"x": held_out}, statistics, replicates=40 if SHORT else 100, batch_size=100)
display(plots.checks(found, "300 held-out images and replicates of them"))
Markdown(checks_table(found))

# %% [markdown]
# `p` is the share of replicates whose statistic is at least the data's, with its Monte-Carlo error; a star marks what
# fewer than one in twenty data sets of a right story would do. With so many statistics a few stars prove little; a
# line far outside its histogram does. A VAE's usual fault shows in them: pixels are drawn one by one, given z. What z
# does not say is noise, pixel for pixel, and noise has ragged strokes and holes that no pen makes. Prior replicates
# add codes that no image has.
#
# ## A wrong model, caught
#
# What would the same checks say of a model that *is* right? There is one way to know: let a story make the data. This
# one has learned a pinwheel of five arms; from here on it is the truth, and the rows that it draws are the data.

# %%
pinwheel = load("pinwheel")
arms = GMVAERecipe.preset("table", data="pinwheel", kinds=5, scale=0.1, epochs=10 if SHORT else 100)
truth, its_guide = train(arms, pinwheel)


def drawn_from(program, n, seed):
    """Draw rows that a story makes up."""
    with evaluation(program, seed=seed):
        return replicate(program, None, {"x": torch.zeros(n, 2)}).drawn["x"]


columns = of_table(drawn_from(truth, 1000, 1), ["across", "up"])
rows = drawn_from(truth, 400, 2)

# %% [markdown]
# Two copies that are wrong on purpose: in one the noise of the decoder is twice as wide, in the other the fifth kind
# is another fourth.


# %%
class Wider(torch.nn.Module):
    """The likelihood with more noise than it should have."""

    def __init__(self, likelihood):
        super().__init__()
        self.likelihood = likelihood

    def forward(self, decoded):
        fn = self.likelihood(decoded)
        return dist.Normal(fn.mean, 2 * fn.stddev).to_event(1)


class Merged(torch.nn.Module):
    """Components of which the last is the last but one again."""

    def __init__(self, component):
        super().__init__()
        self.component = component

    def forward(self, y):
        return self.component(torch.cat([y[..., :-2], y[..., -2:].sum(-1, keepdim=True), 0 * y[..., -1:]], -1))


wider, merged = copy.deepcopy(truth), copy.deepcopy(truth)
wider.likelihood, merged.component = Wider(wider.likelihood), Merged(merged.component)
believed = {"the truth itself": truth, "noise too wide": wider, "a kind too few": merged}
found = {
    name: check(one, its_guide, {"x": rows}, {"x": columns}, replicates=39 if SHORT else 100)
    for name, one in believed.items()
}
for name, checks in found.items():
    display(plots.checks(checks, f"{name}: 400 rows and replicates of them", most=8))

# %% [markdown]
# Counted: how many of the prior predictive checks fail at 5 %, over data sets that the truth draws anew each time. Of
# the truth one in twenty should, and does, within what so few data sets can tell; of the copies some statistics fail
# nearly always.

# %%
SETS = 3 if SHORT else 40
for name, one in believed.items():
    failed = []
    for seed in range(SETS):
        fresh = {"x": drawn_from(truth, 400, 100 + seed)}
        checks = check(one, its_guide, fresh, {"x": columns}, replicates=39, seed=seed)
        failed.append([each.against["prior"]["two_sided"] <= 0.05 for each in checks])
    rates = torch.tensor(failed).double().mean(0)
    worst = checks[int(rates.argmax())].statistic
    print(f"{name}: {rates.mean():.1%} of all checks fail; most often '{worst}', {rates.max():.0%}")

# %% [markdown]
# ## A guide, calibrated
#
# The guide can be wrong where the story is right. Let the story draw z and x, and the guide guess z from x, often: if
# the guide is the posterior, the true z is as likely to have any rank among the guesses as any other (Talts et al.,
# 2018). Too narrow a guide puts it at the ends.

# %%
ranks = calibrate(model, guide, {"x": held_out})
plots.ranks(ranks)

# %% [markdown]
# The grey band holds 95 % of the counts of a right guide.
#
# ## A bound, measured
#
# The ELBO is a bound of log p(x), and says nothing of how far below it lies. Importance sampling does: the mean of K
# weights p(x, z) / q(z | x) is p(x) on average, and its logarithm nears log p(x) from below as K grows. The effective
# sample size says how many of the K draws count.

# %%
some = digits.test[:100]
for samples in (2, 10, 100, 1000):
    one = evidence(model, guide, some, recipe.pixels, samples=samples)
    print(
        f"K = {samples:4}: log p(x) {one.log_p.mean():8.2f}, error of one image {one.error.median():.2f} nats "
        f"(median), effective draws {one.effective.median():6.1f} (median), {one.effective.min():.1f} (least)"
    )

# %% [markdown]
# What keeps the bound below? Part is the network's: one encoder serves all images, and none of them perfectly. That
# part goes away if each image gets a loc and a scale of its own, fitted to it. What stays is that the posterior is no
# Normal with independent coordinates (Cremer et al., 2018).

# %%
parts = gap(model, guide, digits.test[: 10 if SHORT else 100], recipe.pixels, steps=100 if SHORT else 500)
for name, values in parts.items():
    print(f"{name:13} {values.mean():8.2f} +- {values.std() / len(values) ** 0.5:.2f} nats per image")
# %% [markdown]
# A better encoder would give the `amortisation`; a richer family, or `--elbo iwae`, the `approximation`.
