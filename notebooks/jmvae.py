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
# # One latent for an image and its attributes
#
# An image comes with attributes: the digit that it shows, and its side of the canvas. One latent `z`, a
# point of the plane, is to explain the image *and* its attributes. Then each can be inferred from the other: attributes
# from an image, and images from all attributes or from a part of them. The joint multimodal VAE (JMVAE) does
# that, and so does the triple ELBO (TELBO), with the same story and the same guide under another objective.
#
# | | on paper | in code |
# | --- | --- | --- |
# | story | $z$ Normal, $y_1, y_2 \mid z$ and $x \mid z$ Bernoulli | `pyro_models.JMVAE` |
# | guide | $q(z \mid x, y)$, $q(z \mid x)$, $q(z \mid y)$ Normal, the last a product | `guides.JMVAEGuide` |
# | bound | of $\log p(x, y)$; in TELBO also of $\log p(x)$ and $\log p(y)$ | `pyro_models.objectives` |
# | beside it | in JMVAE: two divergences between guides | `objectives.jmvae` |

# %%
# %matplotlib inline
import copy
import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from IPython.display import Markdown, display
from pyro import poutine
from torch.distributions import kl_divergence

import pyro_models as ps
from pyro_models.guides import JMVAEGuide
from pyro_models import JMVAE, VAE, metrics, plots
from pyro_models.data import Dataset, Split, one_hot_attributes, to_float
from pyro_models.distributions import ProductOfNormals
from pyro_models.objectives import Objective, jmvae, masked, mean_field, scaled, some_of, telbo, trace
from pyro_models.recipes import JMVAERecipe
from pyro_models.training import cosine, parameters

SHORT = bool(os.environ.get("PYRO_STORIES_SHORT"))  # on scikit-learn's small digits, in about a minute
dataset = ps.load("attributes", source="digits" if SHORT else "mnist")
for name, split in dataset.parts.items():
    print(f"{dataset.name}: {len(split)} {name} images of {dataset.shape}")

# %% [markdown]
# ## The data
#
# The ones and twos of a set of digits, each put on the left or on the right half of a canvas, at random. Each image
# has two attributes, and each of these has two values, so one bit:

# %%
for site, attribute in zip(("y1", "y2"), dataset.attributes, strict=True):
    values = ", ".join(f"{int(attribute.one_hot(torch.tensor([k])))} is {v}" for k, v in enumerate(attribute.values))
    print(f"{site}, the {attribute.name}: {values}")

BOTH = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])  # the values of (y1, y2)
SIDE, DIGIT = torch.tensor([[0, -1], [1, -1]]), torch.tensor([[-1, 0], [-1, 1]])  # -1: not given
GIVEN = {"y1 and y2": BOTH, "y1": SIDE, "y2": DIGIT}


def has_values(split: Split, values: torch.Tensor) -> torch.Tensor:
    """Return which data of a split have the given attributes, values [2] with -1 where one is not given: [n]."""
    return ((split.attributes == values) | (values < 0)).all(1)


def describe(values: torch.Tensor) -> str:
    """Describe the values of attributes, [2], in words."""
    return metrics.describe(dataset.attributes, values)


encode = partial(one_hot_attributes, dataset.attributes)  # values [n, 2] to the arguments y1 and y2: bits, or NaN
examples = torch.stack([to_float(dataset.train.x[has_values(dataset.train, values)][:8], "grey") for values in BOTH])
display(plots.image_rows(examples, [describe(values) for values in BOTH], "training images, and their attributes"))

# %% [markdown]
# Attributes may have any number of values, and data any number of attributes: story, guide and objectives are general.
#
# ## The story

# %%
print(JMVAE.__doc__)

# %% [markdown]
# The latent is drawn first, and given the latent the image and the attributes are independent of each other. A latent
# that explains them all must therefore hold what they have in common: where the digit is and which
# it is. And because the image varies beyond that (the slant, the thickness), the latent must hold that as well, in
# two numbers.
#
# ## The guide
#
# Training needs $q(z \mid x, y)$, the posterior given an image and its attributes. But to generate an image from
# attributes there is no image to condition on, and to predict the attributes of an image there are none of them. So the
# guide has an approximate posterior for each subset of the data:

# %%
print(JMVAEGuide.__doc__)

# %% [markdown]
# The method `posterior(...)` takes the data that are given and returns the distribution of the latent, for each
# datum one. Here is what the untrained guide returns for three images. `Normal` comes from a network that is given the
# image; `ProductOfNormals` is a product of experts.

# %%
recipe = JMVAERecipe(width=128, learning_rate=3e-3) if SHORT else JMVAERecipe()
torch.manual_seed(recipe.seed)
model, guide = recipe.pair(dataset)
train_batch = recipe.batch(dataset, dataset.train[:64])
SUBSETS = (("x", "y1", "y2"), ("x",), ("x", "y1"), ("y1", "y2"), ("y1",), ("y2",))


def show_posteriors(guide: JMVAEGuide, batch: dict[str, torch.Tensor]) -> None:
    """Print the posterior of the first datum of a batch, given each subset of its data."""
    with metrics.eval_mode(guide):
        for subset in SUBSETS:
            q = guide.posterior(**{name: batch[name] for name in subset})
            loc, scale = ([f"{value:6.3f}" for value in row[0].tolist()] for row in (q.mean, q.stddev))
            text = f"q(z | {', '.join(subset)})"
            print(f"{text:<18} {type(q.base_dist).__name__:<16} of {len(q.mean)} data; the first: ", end="")
            print(f"loc ({', '.join(loc)}), scale ({', '.join(scale)})")


show_posteriors(guide, {name: value[:3] for name, value in train_batch.items()})

# %% [markdown]
# ## A product of experts
#
# For two attributes there are eight ways to be given in place of the image: each bit is 0, 1 or unknown, less
# the case in which both are unknown. A network for each would be a waste. Instead each attribute has one network, its
# *expert*, a density over latents, and the experts' densities are multiplied together and with the prior:
#
# $$
# q(z \mid y_1, y_2) = \frac{1}{C}\, p(z)\, q(z \mid y_1)\, q(z \mid y_2).
# $$
#
# A latent must be likely under all experts to be likely under the product. An attribute that is missing has no factor,
# and if all are missing, the prior remains. The experts here are Normal, and so is their product: its precision, one
# over the variance, is the sum of the precisions, and its mean is the mean of theirs weighted by precision. In one
# dimension, with the constant $C$ once from the formula and once from a sum over a fine grid:

# %%
loc, scale = torch.tensor([0.0, 1.5, 3.0]), torch.tensor([1.0, 1.2, 0.6])  # the prior, and two experts
product = ProductOfNormals(loc, scale, dim=-1)
z = torch.linspace(-5, 6, 2001)
densities = dist.Normal(loc, scale).log_prob(z[:, None]).exp()
by_hand = densities.prod(-1)
area = torch.trapezoid(by_hand, z)
mean = torch.trapezoid(z * by_hand / area, z)
deviation = torch.trapezoid((z - mean) ** 2 * by_hand / area, z).sqrt()
print(f"formula: mean {product.loc:.4f}, standard deviation {product.scale:.4f}, log C {product.log_normaliser:.4f}")
print(f"grid:    mean {mean:.4f}, standard deviation {deviation:.4f}, log C {area.log():.4f}")

figure, panel = plt.subplots(figsize=(8, 3.6), layout="constrained")
for density, title in zip(densities.T, ("prior", "expert of y1", "expert of y2"), strict=True):
    panel.plot(z, density, label=title)
panel.plot(z, product.log_prob(z).exp(), color="black", label="product, by the formula")
panel.plot(z[::40], (by_hand / area)[::40], "o", color="black", markersize=4, label="product, on the grid")
without = ProductOfNormals(loc, scale, torch.tensor([True, True, False]), dim=-1)
panel.plot(z, without.log_prob(z).exp(), "--", color="black", label="product, y2 missing")
panel.set(xlabel="z", ylabel="density")
panel.legend(frameon=False)
plt.show()

# %% [markdown]
# The mean of the product lies between those of its factors, nearest to that of the narrowest, and the product is
# narrower than any of them. Without the expert of `y2` it is wider.
#
# ## What is missing is hidden
#
# $q(z \mid x)$ is trained by a bound of $\log p(x)$, in which the attributes do not count. In the
# story $x$ and $y$ are independent given $z$, so that $p(x)$ is what is left when the factors
# of the attributes are omitted: $\int p(x \mid z)\, p(z)\, dz$, a plain VAE.
#
# Pyro offers two ways to leave out `y1` and `y2`, and one of them is a trap. A sample site whose `obs` is `None` is
# *latent*: the program draws a value there, and the log-density of that value is added to the rest, $\log p(y \mid z)$
# of a drawn `y`. The result looks like the bound of $\log p(x)$, and is lower for bits, whose log-probability is never
# above 0; for an attribute with a density it could be anything. To omit a factor, hide its site: `poutine.block(model,
# hide=[...])`. In numbers, with the same draws of `z`, beside the bound of a VAE that has the same decoder and the same
# encoder:

# %%
x = {"x": train_batch["x"]}
vae = VAE(model.decoder, model.likelihood, recipe.latent_dim)
hidden = poutine.block(model, hide=["y1", "y2"])


def pyros_elbo(story: Callable) -> float:
    """Return Pyro's own estimate of the bound of x, nats per image, with the same draws each time."""
    with metrics.eval_mode(model, guide):
        return -pyro.infer.Trace_ELBO().loss(story, guide, **x) / len(x["x"])


with metrics.eval_mode(model, guide):
    z = guide.posterior(**x).sample((1000,))
    entropy = sum(dist.Bernoulli(logits=head(z)).entropy().mean() for head in model.heads.values())
print(f"the VAE:               {pyros_elbo(vae):.4f} nats per image")
print(f"y1 and y2 hidden:      {pyros_elbo(hidden):.4f}")
print(f"y1 and y2 left latent: {pyros_elbo(model):.4f}, which is {pyros_elbo(model) - pyros_elbo(hidden):+.4f}")
print(f"minus the entropy of p(y | z), at latents drawn from q(z | x): {-entropy:+.4f}")
try:
    trace(model, guide, **x)
except ValueError as error:
    print("the estimators of this project refuse it:", error)

# %% [markdown]
# Hiding gives the VAE's bound to the last digit printed. Leaving the sites latent adds $\log p(y \mid z)$ of bits
# drawn for each image, which on average is minus the entropy of $p(y \mid z)$, with the variance of the draws. The
# objectives below hide the sites that are missing.
#
# ## The objective, as a sum of named terms
#
# JMVAE maximises, for each image with its attributes,
#
# $$
# \underbrace{\mathrm{E}_{q(z \mid x, y)}[\log p(x, y \mid z)]
# - \mathrm{KL}(q(z \mid x, y) \,\Vert\, p(z))}_{\text{elbo}}
# - \underbrace{\mathrm{KL}(q(z \mid x, y) \,\Vert\, q(z \mid x))}_{\text{kl\_given\_x}}
# - \underbrace{\mathrm{KL}(q(z \mid x, y) \,\Vert\, q(z \mid y))}_{\text{kl\_given\_y}} .
# $$
#
# The first part is the bound of $\log p(x, y)$, and trains the story and $q(z \mid x, y)$. The other two train
# $q(z \mid x)$ and $q(z \mid y)$ to be close to $q(z \mid x, y)$. They depend on `posterior` alone, and no divergence
# is written by hand. Here are the terms of the untrained pair, and the loss put together:

# %%
objective = jmvae(mean_field, guide.posterior)
with metrics.eval_mode(model, guide):
    terms = objective(model, guide, **train_batch)
    q = guide.posterior(**train_batch)
    others = {
        "kl_given_x": guide.posterior(**x),
        "kl_given_y": guide.posterior(y1=train_batch["y1"], y2=train_batch["y2"]),
    }
    by_torch = {name: kl_divergence(q, other).mean() for name, other in others.items()}
for name, value in terms.items():
    check = f"   kl_divergence of the two posteriors: {by_torch[name]:.4f}" if name in by_torch else ""
    print(f"{name:>18} {value:10.4f}{check}")
print(f"\n-elbo + kl_given_x + kl_given_y = {-terms['elbo'] + terms['kl_given_x'] + terms['kl_given_y']:.2f}")

# %% [markdown]
# ## Training
#
# `choose=some_of` adds one thing to the formula: in each step, $q(z \mid y)$ is given all attributes of a part of the
# images and one of the others, chosen at random. The article always gives it all of them, and the posterior given *one*
# attribute is then an expert that was only trained together with the other.
#
# `fit` yields once an epoch. Here the terms of the test images are evaluated after each.


# %%
EPOCHS = 25 if SHORT else 10
STEPS = 30 if SHORT else None  # in an epoch; None goes over the data once
ObjectiveOf = Callable[[JMVAEGuide], Objective]


def train(objective_of: ObjectiveOf, dataset: Dataset) -> tuple[JMVAE, JMVAEGuide, list[dict]]:
    """Train a pair that starts with the same weights each time; return it, and its terms over the epochs."""
    torch.manual_seed(recipe.seed)
    model, guide = recipe.pair(dataset)
    objective = objective_of(guide)
    optimizer = torch.optim.Adam(parameters(model, guide), fused=True)
    batches, test = recipe.batches(dataset, steps=STEPS), recipe.batch(dataset, dataset.test)
    rate, rows = cosine(recipe.learning_rate), []
    for epoch in ps.fit(
        model, guide, batches, objective, optimizer, epochs=EPOCHS, seed=recipe.seed, learning_rate=rate
    ):
        row = {"epoch": epoch.number} | {f"train_{name}": value for name, value in epoch.terms.items()}
        test_terms = metrics.evaluate(model, guide, objective, metrics.in_batches(test, 1000))
        rows.append(row | {f"test_{name}": value for name, value in test_terms.items()})
    print(f"{EPOCHS} epochs of {len(batches)} steps of {recipe.batch_size} images")
    return model, guide, rows


joint_model, joint_guide, joint_rows = train(lambda guide: jmvae(mean_field, guide.posterior, choose=some_of), dataset)
unit = recipe.unit(dataset)
display(plots.learning_curves(joint_rows, {"elbo": unit, "kl_given_x": "nats", "kl_given_y": "nats"}))
last = joint_rows[-1]
print(f"in training {recipe.encoder_dropout:.0%} of the pixels are set to 0, the same for q(z | x) and q(z | x, y)")
for name in ("elbo", "kl_given_x", "kl_given_y"):
    print(f"{name:>10}: training {last[f'train_{name}']:8.2f}, test {last[f'test_{name}']:8.2f}")

# %% [markdown]
# One of the divergences stays small and the other does not, as expected: an image determines its latent nearly as well
# without its attributes, while the attributes alone determine no more than a region. `kl_given_y` ends at the
# information that an image has about its latent beyond its attributes, and more where the latents of a combination do
# not have the shape that $q(z \mid y)$ can take.
#
# The posteriors of before, now trained, of a test image:

# %%
test_batch = recipe.batch(dataset, dataset.test)
print(f"the first test image is {describe(dataset.test.attributes[0])}")
show_posteriors(joint_guide, {name: value[:3] for name, value in test_batch.items()})

# %% [markdown]
# With the image, the scale is small. With attributes alone it is larger. With one of them it is never smaller than with
# both: an expert more is a factor more. (`q(z | x, y1)` can be computed, but no step has trained it: the encoder is
# trained with all attributes, or none.)
#
# ## Images for attributes
#
# Draw a latent from $q(z \mid y)$, decode it. First both attributes are given; then the side alone, so that the digit
# varies; then the digit alone, so that the side does.


# %%
def show_generated(model: JMVAE, guide: JMVAEGuide, title: str) -> None:
    """Show ten images for each value of the given attributes, a picture for both attributes and for each alone."""
    for given, values in GIVEN.items():
        repeated = values.repeat_interleave(10, 0)
        images = metrics.generate_given(model, guide, dataset.attributes, repeated, mean=True)
        heading = f"{title}: ten images each, given {given}"
        display(plots.image_rows(images.unflatten(0, (-1, 10)), [describe(each) for each in values], heading))


show_generated(joint_model, joint_guide, "JMVAE")

# %% [markdown]
# The given attributes should be the same along a row, and the rest should vary. Most images have the given attributes.
# The others show the wrong digit, a digit on both sides, or something between two digits. The next pictures show why.
#
# ## Latents given attributes
#
# The latents themselves, given the same attributes. The colours are the values given.


# %%
def show_latents(guide: JMVAEGuide) -> None:
    """Show draws from q(z | given attributes)."""
    panels = {}
    with metrics.eval_mode(guide):
        for given, values in GIVEN.items():
            q = guide.posterior(**encode(values))
            z = q.sample((300,)).transpose(0, 1)
            panels[f"z from q(z | {given.replace(' and', ',')})"] = dict(zip(map(describe, values), z, strict=True))
            print(
                f"given {given:<9}: one standard deviation has area {math.pi * q.stddev.prod(-1).mean():.2f} on average"
            )
    display(plots.scatter(panels))


show_latents(joint_guide)

# %% [markdown]
# The fewer attributes are given, the wider is the posterior. Each is a Normal whose axes are parallel to those of z, as
# a product of such experts is.
#
# ## Latents given images
#
# Now the other posteriors: $q(z \mid x)$ and $q(z \mid x, y)$ of test images. Each image is a circle, as large as the
# scale of its posterior, coloured by the attributes of the image.

# %%
subset = dataset.test[:300]
bits = {site: test_batch[site][: len(subset)] for site in ("y1", "y2")}
panels, sizes = {}, {}
with metrics.eval_mode(joint_guide):
    for title, attributes in {"q(z | x)": {}, "q(z | x, y1, y2)": bits}.items():
        q = joint_guide.posterior(x=test_batch["x"][: len(subset)], **attributes)
        groups = {describe(values): has_values(subset, values) for values in BOTH}
        panels[title] = {name: q.mean[members] for name, members in groups.items()}
        sizes[title] = {name: q.stddev.mean(-1)[members] for name, members in groups.items()}
        predicted = torch.cat([(head(q.mean) > 0).long() for head in joint_model.heads.values()], -1)
        wrong = (predicted != subset.attributes).any(-1).double().mean()
        print(
            f"{title:<16}: mean scale {q.stddev.mean():.3f}; {wrong:.1%} of {len(subset)} images in another "
            "combination's region"
        )
display(plots.scatter(panels, sizes))

# %% [markdown]
# Each combination has a region of its own. The regions lie side by side around the origin, with narrow gaps, because
# their mixture is close to the prior, a single Normal. With the attributes as well as the image the circles are
# smaller on average, and the regions are better separated: the latent of an image that looks like another
# combination moves towards the region of its own.
#
# None of the four regions is an ellipse with axes parallel to those of z. That is a reason for the wrong images.
# Averaged over the images of one combination, $\mathrm{KL}(q(z \mid x, y) \,\Vert\, q(z \mid y))$ is smallest where
# $q(z \mid y)$ has the mean and the variance of their latents, and a Normal with the mean and the variance of a wedge
# covers the wedge and an area beside it. Here are the latents of training images, one combination at a time, with $q(z
# \mid y)$ at one and two standard deviations, and in black a Normal with the mean and the variance of the latents:


# %%
def ellipse(panel: plt.Axes, q: dist.Distribution, colour: str, label: str | None = None, style: str = "-") -> None:
    """Draw a Normal of the plane, batch shape [], at one and two standard deviations."""
    turn = torch.linspace(0, 2 * math.pi, 100)[:, None]
    circle = torch.cat([turn.cos(), turn.sin()], 1)
    for radius in (1, 2):
        x, y = (q.mean + radius * q.stddev * circle).T
        panel.plot(x, y, style, color=colour, linewidth=1.5, label=label if radius == 1 else None)


def show_fit(model: JMVAE, guide: JMVAEGuide, title: str) -> None:
    """Show the latents of each combination and q(z | y), and how many draws lie in another combination's region."""
    subset = dataset.train[: 500 if SHORT else 2000]
    figure, panels = plt.subplots(1, 4, figsize=(14, 4.3), layout="constrained", sharex=True, sharey=True)
    with metrics.eval_mode(model, guide):
        latents = guide.posterior(**recipe.batch(dataset, subset))
        for number, (panel, values) in enumerate(zip(panels, BOTH, strict=True)):
            members = has_values(subset, values)
            z, scale = latents.mean[members], latents.stddev[members]
            moments = dist.Normal(z.mean(0), (z.var(0) + scale.square().mean(0)).sqrt())
            q = guide.posterior(**encode(values[None]))
            panel.scatter(*latents.mean[~members].T, s=3, color="0.8", linewidths=0)
            panel.scatter(*z.T, s=4, color=f"C{number}", linewidths=0)
            ellipse(panel, moments, "black", "moments of the latents", ":")
            ellipse(panel, dist.Normal(q.mean[0], q.stddev[0]), f"C{number}", "q(z | y)")
            drawn = q.sample((2000,))[:, 0]
            predicted = torch.cat([(head(drawn) > 0).long() for head in model.heads.values()], -1)
            wrong = float((predicted != values).any(-1).double().mean())
            panel.set(title=f"{describe(values)}: {wrong:.0%} of draws lie\nin another region", xlabel="z[0]")
            panel.set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
    panels[0].set_ylabel("z[1]")
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{title}: latents of training images, and q(z | y) at one and two standard deviations\n")
    plt.show()


show_fit(joint_model, joint_guide, "JMVAE")

# %% [markdown]
# JMVAE moves the coloured ellipses towards the dotted ones, as far as training has come (in the short form not far)
# and as far as four experts, one for each value of each bit, can fit all combinations, and single attributes as well.
# The parts of an ellipse that lie over grey dots belong to other combinations, and a latent drawn there
# is decoded to one of them. The titles show how often that happens, by the story's own $p(y \mid z)$ at the drawn
# latents. Even the dotted ellipses reach over the decision boundaries: the moments of a region are not the region. A
# guide with a more flexible distribution than a Normal could fit it, and would be another guide.
#
# ## The decision regions
#
# Which values of the attributes does the story predict in each part of the plane? The colour is the likelier value,
# fainter where its probability is lower, and the line is where both have probability one half. The dots are the means
# of $q(z \mid x)$ of test images, coloured by their true attribute.


# %% figure="jmvae-decision-regions.png"
def show_regions(model: JMVAE, guide: JMVAEGuide) -> None:
    """Show p(y1 | z) and p(y2 | z) over the plane, and the latents of test images."""
    limit = 4.0
    grid = plots.latent_grid(torch.full((2,), -limit), torch.full((2,), limit), 120)
    panels = {}
    with metrics.eval_mode(model, guide):
        z = guide.posterior(x=test_batch["x"]).mean
        for i, (head, attribute) in enumerate(zip(model.heads.values(), dataset.attributes, strict=True)):
            p = head(grid).sigmoid()
            panels[attribute.name] = (torch.cat([1 - p, p], -1), dataset.test.attributes[:, i], attribute.values)
            right = (head(z)[:, 0] > 0).long() == dataset.test.attributes[:, i]
            print(f"{attribute.name} of test images, predicted by p(y{i + 1} | z) at the mean of q(z | x): ", end="")
            print(f"{right.double().mean():.1%} right")
    display(plots.decision_regions(panels, z, limit))


show_regions(joint_model, joint_guide)

# %% [markdown]
# The decision boundaries lie between the regions, where few images are. The accuracies are those of predicting
# attributes from an image, for which no classifier was trained.
#
# ## The decoded plane
#
# The decoder's mean at each point of the plane. Every cell is a whole canvas, with its digit on the left or
# on the right half.


# %%
def show_plane(model: JMVAE) -> None:
    """Show the decoded images over a grid of the plane from -3 to 3."""
    grid = plots.latent_grid(torch.full((2,), -3.0), torch.full((2,), 3.0), 14)
    figure = plots.image_grid(metrics.decode(model, grid), 14, "mean image at each z", (-3, 3, -3, 3))
    figure.set_size_inches(12, 6.6)
    display(figure)


show_plane(joint_model)

# %% [markdown]
# Within a region the digit and its side stay and the style changes: slant, thickness, the loop of a 2. At a
# boundary between the sides the digit does not move from left to right. It fades on one side while it appears on the
# other, because no training image has a digit in the middle. These are the images of "a digit on both sides".
#
# ## TELBO
#
# The triple ELBO is another objective. It adds to the bound of $\log p(x, y)$ those of $\log p(x)$ and of
# $\log p(y)$, each with its own posterior:
#
# $$
# \mathrm{ELBO}(x, y) + \mathrm{ELBO}(x) + \mathrm{ELBO}(y).
# $$
#
# In the last two, what is missing is hidden. $q(z \mid y)$ is no longer compared with $q(z \mid x, y)$. It is trained
# to put its mass where the story's own $p(y \mid z)$ is high, and otherwise to stay near the prior; and since the same
# bound trains the story too, the decision boundaries can move as well. As before, ELBO(y) contains all attributes of a
# part of the images and one of the others; what is not chosen becomes NaN, which counts in no bound. Same pair, same
# first weights, same steps:

# %%
triple_model, triple_guide, triple_rows = train(lambda _: telbo(mean_field, choose=some_of), dataset)
terms = {"elbo": unit, "elbo_x": unit, "elbo_y": "nats per datum"}
display(plots.learning_curves(triple_rows, terms))
no_image = poutine.block(triple_model, hide=["x"])
with metrics.eval_mode(triple_model, triple_guide):
    elbo_y = mean_field(no_image, triple_guide, particles=500, **encode(BOTH))["elbo"]
print(f"elbo(y), averaged over the four combinations: {elbo_y:.3f} nats; log 1/4 is {math.log(1 / 4):.3f}")

# %% [markdown]
# `elbo_y` is close to its upper limit from the start. It bounds the log-probability of the attributes alone, and four
# combinations that are equally likely have $\log \frac{1}{4}$ each. (The curve lies higher, because half of the images,
# on average, count one attribute only.) It need not rise, either. A story whose $p(y \mid z)$ does not depend on z has
# a perfect $q(z \mid y)$, the prior. The sharper the decision boundaries become for the sake of the other two bounds,
# the worse a Normal can fit the regions, and most of the difference between the two numbers is the divergence of $q(z
# \mid y)$ from the story's own posterior. Here are the resulting images, latents and decision regions.

# %%
show_generated(triple_model, triple_guide, "TELBO")
show_latents(triple_guide)
show_fit(triple_model, triple_guide, "TELBO")
show_regions(triple_model, triple_guide)

# %% [markdown]
# Nothing moves these ellipses to the moments of the latents. `elbo_y` is high when $q(z \mid y)$ is close to the
# story's own posterior, $p(z \mid y) \propto p(z)\, p(y_1 \mid z)\, p(y_2 \mid z)$, which is easier for a story whose
# boundaries are not sharp. The log-probability of the attributes at the latents of the test images under each story:

# %%
for title, rows in {"JMVAE": joint_rows, "TELBO": triple_rows}.items():
    values = ", ".join(f"log p({y} | z) {rows[-1][f'test_reconstruction_{y}']:.3f}" for y in ("y1", "y2"))
    print(f"{title}: {values} nats, on average")

# %% [markdown]
# ## Are the images right, and do they vary?
#
# The paper on TELBO measures it by a classifier that is trained on the training images and their attributes, apart from
# the model. It predicts the attributes of generated images, and
#
# * **correctness** is the share of the given attributes that the images show;
# * **coverage** concerns the attribute that was *not* given: how close its frequencies are to those of the training
#   data. It is 1 less the Jensen-Shannon divergence in bits, 1 at best and 0 at worst.
#
# A model that generates the same image again and again can have a high correctness, but its coverage is low if that
# image always has the same side or the same digit. First of all, how good is the classifier?

# %%
classifier = metrics.attribute_classifier(dataset, "grey", steps=40 if SHORT else 500)
right = classifier.predict(test_batch["x"]) == dataset.test.attributes
for i, attribute in enumerate(dataset.attributes):
    print(f"the classifier predicts the {attribute.name} of {right[:, i].double().mean():.2%} of the test images")

EACH = 50 if SHORT else 500  # images for each query
lines = ["| | correct, both given | correct, one given | coverage, one given | elbo(x, y), test |", "|" + " --- |" * 5]
by_combination = {}


def evaluate(title: str, model: JMVAE, guide: JMVAEGuide) -> None:
    """Add a line to the table of scores; keep the correctness of each combination."""
    shown = {}
    for given in (2, 1):
        queries = metrics.queries(dataset.test, given)
        repeated = queries.repeat_interleave(EACH, 0)
        images = metrics.generate_given(model, guide, dataset.attributes, repeated, mean=True)
        shown[given] = queries, classifier.predict(images).unflatten(0, (-1, EACH))
    by_combination[title] = {
        describe(query): metrics.correctness(query[None], predicted[None])
        for query, predicted in zip(*shown[2], strict=True)
    }
    elbo = metrics.evaluate(model, guide, mean_field, metrics.in_batches(test_batch, 1000))["elbo"]
    coverage = metrics.coverage(*shown[1], dataset.train.attributes)
    both, one = (metrics.correctness(*shown[given]) for given in (2, 1))
    lines.append(f"| {title} | {both:.3f} | {one:.3f} | {coverage:.3f} | {elbo:.2f} |")


evaluate("JMVAE", joint_model, joint_guide)
evaluate("TELBO", triple_model, triple_guide)
display(Markdown("\n".join(lines)))
for title, shares in by_combination.items():
    print(f"{title}, both given: " + ", ".join(f"{name} {share:.2f}" for name, share in sorted(shares.items())))

# %% [markdown]
# $q(z \mid y)$ of JMVAE was trained to cover the latents of the images of each combination, that of TELBO was not, and
# the first two columns show the effect of that here. (One seed, and in the short form seconds of training on few
# images: no ranking of methods.) The last column depends on $q(z \mid x, y)$ alone: a higher bound of $\log p(x, y)$
# need not come with more correct images.
#
# The paper gives $\log p(y \mid z)$ in ELBO(y) a larger weight than the rest. Since there is no image in ELBO(y), that
# can be tried afterwards. Take the TELBO pair as it is, keep the story fixed, and train a copy of the experts further,
# once with weight 1 and once with weight 50:


# %%
def train_experts(model: JMVAE, guide: JMVAEGuide, weight: float) -> JMVAEGuide:
    """Return a copy of the guide whose experts alone are trained further, by ELBO(y) with log p(y | z) weighted."""
    guide = copy.deepcopy(guide)
    weighted = masked(scaled(mean_field, {"y1": weight, "y2": weight}))

    def objective(model: Callable, guide: Callable, x: torch.Tensor, **y: torch.Tensor) -> dict[str, torch.Tensor]:
        return weighted(poutine.block(model, hide=["x"]), guide, **some_of(y))

    optimizer = torch.optim.Adam(guide.experts.parameters())
    batches = recipe.batches(dataset, size=64, steps=75 if SHORT else 500)
    for epoch in ps.fit(model, guide, batches, objective, optimizer, epochs=1, learning_rate=cosine(3e-3)):
        print(f"weight {weight:g}: " + ", ".join(f"{name} {value:.2f}" for name, value in epoch.terms.items()))
    return guide


further = {weight: train_experts(triple_model, triple_guide, weight) for weight in (1.0, 50.0)}
for weight, guide in further.items():
    evaluate(f"TELBO, experts trained further, weight {weight:g}", triple_model, guide)
display(Markdown("\n".join(lines)))
show_latents(further[50.0])

# %% [markdown]
# More training with weight 1 changes little. With the large weight the latents keep away from the decision boundaries,
# and more of the images are right. The price is in the printed areas: the posteriors have shrunk, and with them the
# variety of the images, of which coverage measures only a part. In the full form it does decrease: the posterior given
# one attribute alone no longer covers the values of the other as evenly as the data do.
#
# ## The product of experts, in the plane
#
# Back to JMVAE, and to "2, on the left". The grey shade is the posterior of the *story*,
# $p(z \mid y) \propto p(z) \prod_i p(y_i \mid z)$ for the attributes given, computed on a grid; the ellipses are the
# *guide's* posteriors, at one and two standard deviations. In the last panel the dashed ones are the experts
# themselves, before they are multiplied with the prior.

# %%
target = torch.tensor([0, 1])
grid = plots.latent_grid(torch.full((2,), -4.0), torch.full((2,), 4.0), 150)
figure, panels = plt.subplots(1, 3, figsize=(14, 5), layout="constrained", sharex=True, sharey=True)
with metrics.eval_mode(joint_model, joint_guide):
    heads = {site: head(grid)[:, 0] for site, head in joint_model.heads.items()}
    bits = encode(target[None])
    for panel, given in zip(panels, (("y1",), ("y2",), ("y1", "y2")), strict=True):
        log_p = dist.Normal(0.0, 1.0).log_prob(grid).sum(-1)
        for site in given:
            log_p = log_p + dist.Bernoulli(logits=heads[site]).log_prob(bits[site][0])
        panel.imshow(log_p.exp().reshape(150, 150).numpy(), cmap="Greys", extent=(-4, 4, -4, 4), alpha=0.7)
        known = [i for i in (0, 1) if f"y{i + 1}" in given]
        title = ", ".join(f"{dataset.attributes[i].name} = {dataset.attributes[i].values[target[i]]}" for i in known)
        panel.set(title=f"p(z | {title}), shaded", xlabel="z[0]", ylabel="z[1]", xlim=(-4, 4), ylim=(-4, 4))
    names = [f"q(z | {describe(values[0])})" for values in (SIDE[:1], DIGIT[1:])]
    alone = [joint_guide.posterior(**{site: bits[site]}) for site in ("y1", "y2")]
    whole = joint_guide.posterior(**bits)
    for panel, q, name, colour in zip(
        panels, (*alone, whole), (*names, "their product"), ("C0", "C1", "C3"), strict=True
    ):
        ellipse(panel, dist.Normal(q.mean[0], q.stddev[0]), colour, f"{name}")
    experts = whole.base_dist.experts  # the prior, and one for each attribute: [1, 3, latent]
    for i, (name, colour) in enumerate((("prior", "0.4"), ("expert of y1", "C0"), ("expert of y2", "C1"))):
        ellipse(panels[2], dist.Normal(experts.loc[0, i], experts.scale[0, i]), colour, name, "--")
for panel in panels:
    panel.legend(loc="lower right")
plt.show()

# %% [markdown]
# An expert may be wide where its attribute has no information: it then excludes a part of the plane and leaves the
# rest to the others. (One that is hardly trained, as in the short form, can be so wide that its ellipses lie outside
# the picture.) The prior counts once; multiplying the posterior of the first panel by that
# of the second would count it twice.
#
# ## Missing attributes
#
# In real data not every image has all its attributes. An index of -1 in a split means that one is missing, and becomes
# NaN in a batch. Here a third of them is removed, at random:

# %%
values = dataset.train.attributes
removed = torch.rand(values.shape, generator=torch.Generator().manual_seed(1)) < 1 / 3
incomplete = replace(dataset, train=replace(dataset.train, attributes=values.masked_fill(removed, -1)))
known = (incomplete.train.attributes >= 0).sum(1)
print(", ".join(f"{int((known == k).sum())} training images with {k} of their attributes" for k in (2, 1, 0)))
few = recipe.batch(incomplete, incomplete.train[:8])
print("y1:", few["y1"][:, 0].tolist())
print("y2:", few["y2"][:, 0].tolist())

# %% [markdown]
# In the story, what is NaN must not count: `masked` does for a single datum what hiding does for all. In the guide, a
# missing attribute has no expert, and the encoder is given a zero in its place. So it makes no difference to a datum
# whether an attribute is NaN or is not passed at all:

# %%
nothing = torch.full((1, 1), torch.nan)
with metrics.eval_mode(joint_model, joint_guide):
    one = {"x": test_batch["x"][:1], "y1": test_batch["y1"][:1]}
    for given in (one, {"y1": one["y1"]}):
        apart = kl_divergence(joint_guide.posterior(**given, y2=nothing), joint_guide.posterior(**given))
        print(f"given {', '.join(given)}: KL between y2 = NaN and no y2 at all: {apart.item():g}")
    elbo = partial(masked(mean_field), guide=joint_guide, **one)
with metrics.eval_mode(joint_model, joint_guide):
    as_nan = elbo(joint_model, y2=nothing)["elbo"]
with metrics.eval_mode(joint_model, joint_guide):
    as_hidden = elbo(poutine.block(joint_model, hide=["y2"]))["elbo"]
print(f"elbo with y2 = NaN: {as_nan:.4f}, with y2 hidden: {as_hidden:.4f}")

# %% [markdown]
# The same training as above, with a third of the attributes missing:

# %%
incomplete_model, incomplete_guide, _ = train(
    lambda guide: jmvae(mean_field, guide.posterior, choose=some_of), incomplete
)
evaluate("JMVAE, a third missing", incomplete_model, incomplete_guide)
display(Markdown("\n".join(lines)))
show_regions(incomplete_model, incomplete_guide)
repeated = BOTH.repeat_interleave(10, 0)
images = metrics.generate_given(incomplete_model, incomplete_guide, dataset.attributes, repeated, mean=True)
title = "trained with a third of the attributes missing: ten images each, given y1 and y2"
display(plots.image_rows(images.unflatten(0, (-1, 10)), [describe(values) for values in BOTH], title))

# %% [markdown]
# Compare the last line of the table with the first. Images without attributes train $p(x \mid z)$, and images with one
# or two train $p(y \mid z)$ as well. (Of the short form's few images, few are left with both.)
#
# ## From the command line
#
# With a run folder, a report, and the pictures above; then images with given attributes:
#
#     python train.py jmvae
#     python train.py jmvae --source mnist
#     python train.py jmvae --preset telbo --source mnist
#     python -m pyro_models sample runs/jmvae-attributes-1 --given digit=2 side=left
#
# The second and the third need MNIST, which is downloaded on first use. A file of your own is an `.npz` with `images`
# and `attributes`, whole numbers of shape [n, attributes] and -1 where one is missing, and, if they have names,
# `attribute_names`. The options that the presets set:

# %%
for preset, options in JMVAERecipe.presets.items():
    print(f"--preset {preset}: {options}")
