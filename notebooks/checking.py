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
# # Reading, checking and measuring a model
#
# George Box described statistics as a loop: build a model, infer what is latent, criticise the result, and build
# a better one. The other notebooks build and infer. This one criticises, with three questions that can be asked of any
# model and its guide:
#
# | question | functions |
# | --- | --- |
# | What does the program say? | `story` |
# | Do replicated data look like the data? Is the guide the posterior of the model? | `check`, `calibrate` |
# | How probable are held-out data, and how far below that is the bound? | `evidence`, `gap` |
#
# None of these depends on the model: all take a pair and a batch, a dict of tensors by the names of the pair's
# arguments. The commands that do the same to a run are `python -m pyro_models story`, `check` and `likelihood`.

# %%
# %matplotlib inline
import copy
import os
import warnings
from dataclasses import replace

import pyro
import pyro.distributions as dist
import torch
from IPython.display import Markdown, display

import pyro_models as ps
from pyro_models import metrics, plots
from pyro_models.checking import calibrate, checks_table, image_statistics, table_statistics, replicate
from pyro_models.likelihood import UntrustedEstimate, evidence, gap
from pyro_models.recipes import GMVAERecipe, VAERecipe
from pyro_models.training import cosine, parameters

SHORT = bool(os.environ.get("PYRO_STORIES_SHORT"))  # on scikit-learn's digits, in under a minute
if SHORT:
    warnings.simplefilter("ignore", UntrustedEstimate)  # a short run has few samples, and its figures are no result


def train(recipe, dataset):
    """Train a recipe's pair."""
    torch.manual_seed(recipe.seed)
    model, guide = recipe.pair(dataset)
    optimizer = torch.optim.Adam(parameters(model, guide), lr=recipe.learning_rate, fused=True)
    objective, rate = recipe.training_objective(guide, dataset.train), cosine(recipe.learning_rate)
    for epoch in ps.fit(
        model, guide, recipe.batches(dataset), objective, optimizer, epochs=recipe.epochs, learning_rate=rate
    ):
        last = epoch
    print(f"{recipe.name}, epoch {last.number}: " + ", ".join(f"{k} {v:.2f}" for k, v in last.terms.items()))
    return model.eval(), guide.eval()


# %% [markdown]
# ## Reading a model
#
# `story` runs a program and describes it: the distribution at each site, what its parameters were computed from, which
# sites are observed, and the plates. It reads no docstring, so it can't be out of date. Here is an untrained VAE with
# its guide:

# %%
digits = ps.load("digits" if SHORT else "mnist", pixels="static")
EPOCHS = 40 if SHORT else 30
recipe = VAERecipe(data=digits.name, pixels="static", latent_dim=10, epochs=EPOCHS)
recipe = replace(recipe, network="article", batch_size=32) if SHORT else recipe
torch.manual_seed(1)
untrained, its_guide = recipe.pair(digits)
ps.story(untrained, guide=its_guide, **recipe.batch(digits, digits.train[:8]))

# %% [markdown]
# Any Pyro program will do. Rubin's eight schools (1981) have two latent numbers that all schools share, outside the
# plate, and one for each school within:


# %%
def schools(results, errors):
    """Effects of coaching on the test scores of schools."""
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.HalfCauchy(10.0))
    with pyro.plate("schools", len(results)):
        effect = pyro.sample("effect", dist.Normal(loc, scale))
        pyro.sample("result", dist.Normal(effect, errors), obs=results)


results = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
errors = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
ps.story(schools, results, errors)

# %% [markdown]
# ## Checking a model
#
# Train the VAE, on pixels binarised at random once and for all (`static`), so that its draws are of the same type
# as its training data.

# %%
model, guide = train(recipe, digits)

# %% [markdown]
# A *replicate* is a data set drawn from the model. A prior replicate starts from z ~ p(z), without any data. A
# posterior replicate starts from the latents of the data themselves, z ~ q(z | x). Both end with a draw of x, never its
# mean, and never the data: Pyro's `Predictive(model, guide=guide)(x=x)` would return the x that it is called with,
# because x is observed, and any check of that passes.

# %%
HELD_OUT = 100 if SHORT else 300
held_out = recipe.batch(digits, digits.test[:HELD_OUT])
with metrics.eval_mode(model, guide):
    rows = [held_out["x"], replicate(model, guide, held_out).drawn["x"], replicate(model, None, held_out).drawn["x"]]
names = ["held-out data", "posterior replicate", "prior replicate"]
display(plots.image_rows(torch.stack([row[:12] for row in rows]), names, "held-out data and replicates of them"))

# %% [markdown]
# They look like digits, more or less. A *statistic* puts that into numbers: it is a plain function from images to
# numbers. Those that come with the package measure ink, position, stroke width, holes, symmetry, the mean of each
# pixel, and the distance to the nearest of the training images, which would be small if the model reproduced them. One
# of your own is a function like them:


# %% figure="vae-checks.png"
def widest(x):
    """Count the columns of each image that have ink: [n, channel, height, width] to [n]."""
    return (x.amax((1, 2)) > 0.5).double().sum(-1)


training = recipe.batch(digits, digits.train[: 500 if SHORT else 5000])
statistics = {"x": image_statistics(training["x"]) | {"columns with ink": widest}}
checks = ps.check(model, guide, held_out, statistics, replicates=39 if SHORT else 100, batch_size=100)
display(plots.checks(checks, f"{HELD_OUT} held-out images and replicates of them", most=12))
Markdown(checks_table(checks))

# %% [markdown]
# `p` is the share of replicates whose statistic is at least the data's, with its Monte-Carlo error; a star marks a
# two-sided p-value of at most 5 %. With so many statistics a few stars prove little; a
# line far outside its histogram does. A VAE's usual fault shows in them: pixels are independent given z. Whatever z
# does not determine becomes noise, pixel by pixel, and noise makes ragged strokes and holes. Prior replicates
# add latents that no image has.
#
# ## Detecting a wrong model
#
# What is the result of the same checks for a model that *is* true? To know, draw the data from a model. This
# one was fitted to a pinwheel of five arms; from here on it is the true model, and the rows that it draws are the data.

# %%
pinwheel = ps.load("pinwheel")
EPOCHS = 40 if SHORT else 100
arms = GMVAERecipe.preset("table", data="pinwheel", clusters=5, scale=0.1, epochs=EPOCHS)
truth, arms_guide = train(arms, pinwheel)


def drawn_from(model, n, seed):
    """Draw n rows from a model, [n, 2]."""
    with metrics.eval_mode(model, seed=seed):
        return replicate(model, None, {"x": torch.zeros(n, 2)}).drawn["x"]


columns = table_statistics(drawn_from(truth, 1000, 1), ["across", "up"])
ROWS = 200 if SHORT else 400
rows = {"x": drawn_from(truth, ROWS, 2)}

# %% [markdown]
# Two copies that are wrong on purpose: in one the scale of the likelihood is doubled, in the other the fifth cluster
# has the prior of the fourth.


# %%
class Wider(torch.nn.Module):
    """The likelihood with its scale doubled."""

    def __init__(self, likelihood):
        super().__init__()
        self.likelihood = likelihood

    def forward(self, decoded):
        fn = self.likelihood(decoded)
        return dist.Normal(fn.mean, 2 * fn.stddev).to_event(1)


class Merged(torch.nn.Module):
    """Components of which the last equals the last but one."""

    def __init__(self, component):
        super().__init__()
        self.component = component

    def forward(self, y):
        return self.component(torch.cat([y[..., :-2], y[..., -2:].sum(-1, keepdim=True), 0 * y[..., -1:]], -1))


wider, merged = copy.deepcopy(truth), copy.deepcopy(truth)
wider.likelihood, merged.component = Wider(wider.likelihood), Merged(merged.component)
models = {"the true model": truth, "scale doubled": wider, "one cluster missing": merged}
for name, candidate in models.items():
    checks = ps.check(candidate, arms_guide, rows, {"x": columns}, replicates=39 if SHORT else 100)
    display(plots.checks(checks, f"{name}: {ROWS} rows and replicates of them", most=4 if SHORT else 8))

# %% [markdown]
# Counted: how many of the prior predictive checks fail at 5 %, over data sets drawn anew from the true model. Of the
# true model's one in twenty should, and does, up to the error of so few data sets; some statistics of the copies fail
# nearly always.

# %%
SETS = 2 if SHORT else 40
for name, candidate in models.items():
    failed = []
    for seed in range(SETS):
        fresh = {"x": drawn_from(truth, ROWS, 100 + seed)}
        checks = ps.check(candidate, arms_guide, fresh, {"x": columns}, replicates=39, seed=seed)
        failed.append([each.against["prior"]["two_sided"] <= 0.05 for each in checks])
    rates = torch.tensor(failed).double().mean(0)
    worst = checks[int(rates.argmax())].statistic
    print(f"{name}: {rates.mean():.1%} of all checks fail; most often '{worst}', {rates.max():.0%}")

# %% [markdown]
# ## Calibrating a guide
#
# The guide can be wrong where the model is right. Draw z and x from the model, and many z from the guide given that x:
# if the guide is the posterior, the rank of the model's z among the guide's draws is uniform (Talts et al.,
# 2018). A guide that is too narrow leads to extreme ranks.

# %%
ranks = calibrate(model, guide, held_out)
plots.ranks(ranks)

# %% [markdown]
# Drawn is how far the distribution of the ranks is from uniform. If the guide is the posterior, the whole line stays in
# the grey band in 95 % of the cases (Säilynoja et al., 2022); a guide that is too narrow rises first, and then falls.
#
# ## Measuring the bound
#
# The ELBO is a lower bound of log p(x), of unknown tightness. Importance sampling measures it: the mean of K
# weights p(x, z) / q(z | x) is p(x) on average, and its logarithm approaches log p(x) from below as K grows. The
# effective sample size is the number of draws from the posterior itself that would be worth as much as the K draws.

# %%
images = recipe.batch(digits, digits.test[: 20 if SHORT else 100])
for samples in (2, 10, 100, 1000):
    estimate = evidence(model, guide, images, samples=samples)
    print(
        f"K = {samples:4}: log p(x) {estimate.log_p.mean():8.2f}, error of one image {estimate.error.median():.2f} "
        f"nats (median), effective sample size {estimate.effective.median():6.1f} (median), "
        f"{estimate.effective.min():.1f} (smallest)"
    )

# %% [markdown]
# Why is the ELBO below log p(x)? One part is the amortisation gap: one encoder infers z for all images, and is optimal
# for none. It vanishes if each image gets a loc and a scale of its own, fitted to it. The rest is the approximation
# gap: the posterior is no Normal with independent coordinates (Cremer et al., 2018).

# %%
images = recipe.batch(digits, digits.test[: 10 if SHORT else 100])
parts = gap(model, guide, images, samples=100 if SHORT else 500, steps=50 if SHORT else 500)
for name, values in parts.items():
    print(f"{name:13} {values.mean():8.2f} +- {values.std() / len(values) ** 0.5:.2f} nats per image")

# %% [markdown]
# A better encoder would gain the `amortisation`; a richer family of guides, or training with `--elbo iwae`, part of the
# `approximation`.
