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
# # One latent plane under an image and its attributes
#
# An image comes with something that is known of it: the digit that it shows, and on which side. One code `z`, a
# point of a plane, is to explain the image *and* its attributes. Then each can be had from the other: attributes
# from an image, and images from attributes, from all of them or from some. The joint multimodal VAE (JMVAE) does
# that, and so does the triple ELBO (TELBO), with the same story and the same guide under another objective.
#
# | | on paper | in code |
# | --- | --- | --- |
# | story | $z$ Normal, $y_1, y_2 \mid z$ and $x \mid z$ Bernoulli | `pyro_models.jmvae.JMVAE` |
# | guide | $q(z \mid x, y)$, $q(z \mid x)$, $q(z \mid y)$ Normal, the last a product | `guides.jmvae.JMVAEGuide` |
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

from guides.jmvae import JMVAEGuide
from pyro_models.metrics.evaluation import decode, evaluate
from pyro_models import plots
from pyro_models.metrics.attributes import attribute_classifier, correctness, coverage, imagine, queries, said
from pyro_models.metrics.evaluation import evaluation
from pyro_models.data import Batches, Dataset, batch_of, load, to_float
from pyro_models.distributions import ProductOfNormals
from pyro_models.jmvae import JMVAE
from pyro_models.objectives import ESTIMATORS, Objective, jmvae, masked, some_of, telbo, scaled
from pyro_models.training.fit import fit, parameters
from pyro_models.training.schedules import cosine
from pyro_models.recipes.jmvae import JMVAERecipe
from pyro_models.vae import VAE

SHORT = bool(os.environ.get("PYRO_STORIES_SHORT"))  # a few steps on scikit-learn's digits, for a quick look
dataset = load("attributes", source="digits" if SHORT else "mnist")
for name in ("train", "validation", "test"):
    print(f"{dataset.name}: {len(getattr(dataset, name))} {name} images of {dataset.shape}")

# %% [markdown]
# ## The data
#
# The ones and twos of a set of digits, each put on the left or on the right half of a canvas, at random. Of each
# image two things are known, and either of them is one of two values, so one bit:

# %%
for site, attribute in zip(("y1", "y2"), dataset.attributes, strict=True):
    meaning = ", ".join(f"{int(attribute.one_hot(torch.tensor([k])))} is {v}" for k, v in enumerate(attribute.values))
    print(f"{site}, the {attribute.name}: {meaning}")

BOTH = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])  # the values of (y1, y2)
SIDE, DIGIT = torch.tensor([[0, -1], [1, -1]]), torch.tensor([[-1, 0], [-1, 1]])  # -1: not given
GIVEN = {"y1 and y2": BOTH, "y1": SIDE, "y2": DIGIT}


def those(values: torch.Tensor, split) -> torch.Tensor:
    """Return which data of a split have the values [2] that are asked for: [n], true or false."""
    return ((split.attributes == values) | (values < 0)).all(1)


def words(values: torch.Tensor) -> str:
    """Put the values of attributes, [2], into words."""
    return said(dataset.attributes, values)


def encoded(values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the bits of values [n, 2], each [n, 1], as the story and the guide take them; those given alone."""
    named = {f"y{i + 1}": attribute.one_hot(values[:, i]) for i, attribute in enumerate(dataset.attributes)}
    return {site: value for site, value in named.items() if not value.isnan().all()}


examples = torch.stack([to_float(dataset.train.x[those(values, dataset.train)][:8], "grey") for values in BOTH])
display(plots.image_rows(examples, [words(values) for values in BOTH], "training images, and what is known of them"))

# %% [markdown]
# The number of images, of attributes and of their values is an accident of this data set. The story, the guide and
# the objectives take any.
#
# ## The story

# %%
print(JMVAE.__doc__)

# %% [markdown]
# The code is drawn first, and given the code the image and the attributes have nothing more to do with each
# other. A code that is to explain them all must therefore hold what they have in common: where the digit is and which
# it is. And because the image wants more (the slant, the thickness), the code must hold some of that as well, in
# two numbers.
#
# ## The guide
#
# Training needs $q(z \mid x, y)$, the guess of the code when all is known. But who wants an image *for* some
# attributes has no image, and who wants the attributes of an image has none of them. So there has to be a guess for
# whatever is given:

# %%
print(JMVAEGuide.__doc__)

# %% [markdown]
# One method does it all: `posterior(...)` takes what there is and returns a distribution of the code, for each
# datum one. Here is what the untrained guide says of three images. `Normal` comes from a network that has seen the
# image; `ProductOfNormals` is a product of experts.

# %%
recipe = JMVAERecipe(width=128, learning_rate=3e-3) if SHORT else JMVAERecipe()
torch.manual_seed(recipe.seed)
model, guide = recipe.pair(dataset.shape, dataset.attributes)
train_batch = batch_of(dataset.train[:64], "grey", dataset.attributes)
SUBSETS = (("x", "y1", "y2"), ("x",), ("x", "y1"), ("y1", "y2"), ("y1",), ("y2",))


def show_posteriors(guide: JMVAEGuide, batch: dict[str, torch.Tensor]) -> None:
    """Show what the guide says of the first datum of a batch, for each choice of what it is given."""
    with evaluation(guide):
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
# For two attributes there are eight things that may be given in place of the image: each bit is 0, 1 or unknown, less
# the case in which both are unknown. A network for each would be a waste. Instead each attribute has one network, its
# *expert*, which says of every code how well it suits the attribute, and the experts' densities are multiplied
# together and with the prior:
#
# $$
# q(z \mid y_1, y_2) = \frac{1}{C}\, p(z)\, q(z \mid y_1)\, q(z \mid y_2).
# $$
#
# A code must suit all experts to be likely. An attribute that is not known has no factor, and if none is known, the
# prior remains. The experts here are Normal, and so is their product: its precision, one over the variance, is
# the sum of the precisions, and its mean is the mean of theirs weighted by precision. In one dimension, with the
# constant $C$ once from the formula and once from a sum over a fine grid:

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
panel.plot(z, without.log_prob(z).exp(), "--", color="black", label="product, y2 not known")
panel.set(xlabel="z", ylabel="density")
panel.legend(frameon=False)
plt.show()

# %% [markdown]
# The product lies between its factors, nearest to the surest, and is surer than any of them. Without the expert of
# `y2` it is wider.
#
# ## What is missing is hidden
#
# The guess $q(z \mid x)$ is judged by a bound of $\log p(x)$, for which nothing of the attributes is to count. In the
# story $x$ and $y$ have nothing to do with each other once $z$ is known, so that $p(x)$ is what is left when the lines
# of the attributes are struck out: $\int p(x \mid z)\, p(z)\, dz$, a plain VAE.
#
# Pyro offers two ways to leave out `y1` and `y2`, and one of them is a trap. A sample site whose `obs` is `None`
# is *latent*: the program draws a value there, and the value's log-density joins the rest, $\log p(y \mid z)$ of an
# invented `y`. What comes out looks like the bound of $\log p(x)$, and is lower for bits, whose log-probability is
# never above 0; for an attribute with a density it could be anything. To strike a line out, hide it:
# `poutine.block(model, hide=[...])`. In numbers, with the same draws of `z`, beside the bound of a VAE that has the
# same decoder and the same encoder:

# %%
x = {"x": train_batch["x"]}
vae = VAE(model.decoder, model.likelihood, recipe.latent_dim)
hidden = poutine.block(model, hide=["y1", "y2"])


def pyros_elbo(story: Callable) -> float:
    """Return Pyro's own estimate of the bound of x, nats per image, with the same draws each time."""
    with evaluation(model, guide):
        return -pyro.infer.Trace_ELBO().loss(story, guide, **x) / len(x["x"])


with evaluation(model, guide):
    z = guide.posterior(**x).sample((1000,))
    uncertain = sum(dist.Bernoulli(logits=head(z)).entropy().mean() for head in model.heads.values())
print(f"the VAE:               {pyros_elbo(vae):.4f} nats per image")
print(f"y1 and y2 hidden:      {pyros_elbo(hidden):.4f}")
print(f"y1 and y2 left latent: {pyros_elbo(model):.4f}, which is {pyros_elbo(model) - pyros_elbo(hidden):+.4f}")
print(f"minus the entropy of p(y | z), at codes drawn from q(z | x): {-uncertain:+.4f}")
try:
    ESTIMATORS["trace"](model, guide, **x)
except ValueError as error:
    print("the estimators of this project refuse it:", error)

# %% [markdown]
# Hiding gives the VAE's bound to the last digit printed. Leaving the sites latent adds $\log p(y \mid z)$ of bits
# tossed for each image, which on average is minus the entropy of $p(y \mid z)$, with all the noise of the tossing. The
# objectives below hide what they have to.
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
# The first part is the bound of $\log p(x, y)$, and trains the story and the guide that knows all. The other two teach
# the guides that know less: they shall say what the one that knows all would say. They read `posterior` and nothing
# else, and no divergence is written by hand. Here are the terms of the untrained pair, and the loss put together:

# %%
mean_field = ESTIMATORS["mean-field"]
objective = jmvae(mean_field, guide.posterior)
with evaluation(model, guide):
    terms = objective(model, guide, **train_batch)
    q = guide.posterior(**train_batch)
    less = {
        "kl_given_x": guide.posterior(**x),
        "kl_given_y": guide.posterior(y1=train_batch["y1"], y2=train_batch["y2"]),
    }
    by_torch = {name: kl_divergence(q, other).mean() for name, other in less.items()}
for name, value in terms.items():
    check = f"   kl_divergence of the two posteriors: {by_torch[name]:.4f}" if name in by_torch else ""
    print(f"{name:>18} {value:10.4f}{check}")
print(f"\n-elbo + kl_given_x + kl_given_y = {-terms['elbo'] + terms['kl_given_x'] + terms['kl_given_y']:.2f}")

# %% [markdown]
# ## Training
#
# `choose=some_of` adds one thing to the formula: in each step, $q(z \mid y)$ is shown all attributes of some images and
# one of others, chosen at random. The article shows it all of them, and its guess for *one* attribute is then an expert
# that was only ever trained in company.
#
# `fit` yields once an epoch. What is done in between is ours: here the terms are measured on the test images too.


# %%
EPOCHS = 10
STEPS = 25 if SHORT else None  # in an epoch; None goes over the data once
ObjectiveOf = Callable[[JMVAEGuide], Objective]


def train(objective_of: ObjectiveOf, dataset: Dataset) -> tuple[JMVAE, JMVAEGuide, list[dict]]:
    """Train a pair that starts with the same weights each time; return it, and its terms over the epochs."""
    torch.manual_seed(recipe.seed)
    model, guide = recipe.pair(dataset.shape, dataset.attributes)
    objective = objective_of(guide)
    optimizer = torch.optim.Adam(parameters(model, guide), fused=True)
    to_batch = partial(batch_of, pixels="grey", attributes=dataset.attributes)
    batches = Batches(dataset.train, size=recipe.batch_size, seed=recipe.seed, steps=STEPS, to_batch=to_batch)
    rate, rows = cosine(recipe.learning_rate), []
    for epoch in fit(model, guide, objective, optimizer, batches, epochs=EPOCHS, seed=recipe.seed, learning_rate=rate):
        test = evaluate(model, guide, objective, dataset.test, "grey", attributes=dataset.attributes)
        row = {"epoch": epoch.number} | {f"train_{name}": value for name, value in epoch.terms.items()}
        rows.append(row | {f"test_{name}": value for name, value in test.items()})
    print(f"{EPOCHS} epochs of {len(batches)} steps of {recipe.batch_size} images")
    return model, guide, rows


joint_model, joint_guide, joint_rows = train(lambda guide: jmvae(mean_field, guide.posterior, choose=some_of), dataset)
unit = recipe.unit(dataset)
display(plots.learning_curves(joint_rows, {"elbo": unit, "kl_given_x": "nats", "kl_given_y": "nats"}))
last = joint_rows[-1]
print(f"{recipe.encoder_dropout:.0%} of the pixels are hidden in training, the same ones from both guesses")
for name in ("elbo", "kl_given_x", "kl_given_y"):
    print(f"{name:>10}: training {last[f'train_{name}']:8.2f}, test {last[f'test_{name}']:8.2f}")

# %% [markdown]
# One of the divergences stays small and the other does not, and they should: an image tells nearly all that there is to
# know of its code, and the attributes only in which region to look. `kl_given_y` ends at what an image says of its code
# beyond its attributes, and more where the codes of a combination do not have the shape that $q(z \mid y)$ can take.
#
# The guide of before, now trained, on a test image:

# %%
test_batch = batch_of(dataset.test, "grey", dataset.attributes)
print(f"the first test image is {words(dataset.test.attributes[0])}")
show_posteriors(joint_guide, {name: value[:3] for name, value in test_batch.items()})

# %% [markdown]
# With the image, the scale is small. With attributes alone it is larger. With one of them it is never smaller than with
# both: an expert more is a factor more. (`q(z | x, y1)` can be asked for, but no step has trained it: the encoder has
# seen all attributes, or none.)
#
# ## Images for attributes
#
# Draw a code from $q(z \mid y)$, decode it. First both attributes are given; then the side alone, so that the digit is
# free; then the digit alone, so that the side is.


# %%
def show_imagined(model: JMVAE, guide: JMVAEGuide, title: str) -> None:
    """Show ten images for each thing that can be given, a picture for both attributes and for each alone."""
    for given, asked in GIVEN.items():
        images = imagine(model, guide, dataset.attributes, asked.repeat_interleave(10, 0), mean=True)
        heading = f"{title}: ten images each, given {given}"
        display(plots.image_rows(images.unflatten(0, (-1, 10)), [words(values) for values in asked], heading))


show_imagined(joint_model, joint_guide, "JMVAE")

# %% [markdown]
# What is given is to be the same along a row, and the rest is to vary. Most images obey. Some do not: the wrong digit,
# a digit on both sides, something between two digits. The next pictures show why.
#
# ## Codes for attributes
#
# The codes themselves, for the same three choices of what is given. The colours are what was given.


# %%
def show_codes(guide: JMVAEGuide) -> None:
    """Show draws from q(z | what is given)."""
    panels = {}
    with evaluation(guide):
        for given, asked in GIVEN.items():
            q = guide.posterior(**encoded(asked))
            z = q.sample((300,)).transpose(0, 1)
            panels[f"z from q(z | {given.replace(' and', ',')})"] = dict(zip(map(words, asked), z, strict=True))
            print(
                f"given {given:<9}: one standard deviation has area {math.pi * q.stddev.prod(-1).mean():.2f} on average"
            )
    display(plots.scatter(panels))


show_codes(joint_guide)

# %% [markdown]
# The less is given, the wider the guess. Each cloud is a Normal with upright or lying axes, because that is what a
# product of such experts is.
#
# ## Codes for images
#
# Now the other side: $q(z \mid x)$ and $q(z \mid x, y)$ of test images. Each image is a circle, as large as the scale
# of its guess, coloured by what the image shows.

# %%
some = min(300, len(dataset.test))
bits = {site: test_batch[site][:some] for site in ("y1", "y2")}
panels, sizes = {}, {}
with evaluation(joint_guide):
    for title, known in {"q(z | x)": {}, "q(z | x, y1, y2)": bits}.items():
        q = joint_guide.posterior(x=test_batch["x"][:some], **known)
        groups = {words(values): those(values, dataset.test[:some]) for values in BOTH}
        panels[title] = {name: q.mean[members] for name, members in groups.items()}
        sizes[title] = {name: q.stddev.mean(-1)[members] for name, members in groups.items()}
        told = torch.cat([(head(q.mean) > 0).long() for head in joint_model.heads.values()], -1)
        wrong = (told != dataset.test.attributes[:some]).any(-1).double().mean()
        print(f"{title:<16}: mean scale {q.stddev.mean():.3f}; {wrong:.1%} of {some} images beyond a border")
display(plots.scatter(panels, sizes))

# %% [markdown]
# Each combination has a region of its own. The regions lie side by side around the middle, with narrow gaps, because
# together they are to fill the prior, which is one bell. With the attributes as well as the image the circles are
# smaller on average, and the borders, which will be drawn below, are clearer: an image that looks like another
# combination is drawn towards its own.
#
# None of the four regions is an ellipse with upright or lying axes. That is a reason for the wrong images. Averaged
# over the images of one combination, $\mathrm{KL}(q(z \mid x, y) \,\Vert\, q(z \mid y))$ is smallest where
# $q(z \mid y)$ has the mean and the variance of their codes, and a Normal with the mean and the variance of a wedge
# covers the wedge and something else beside it. Here are the codes of training images, one combination at a time, with
# $q(z \mid y)$ at one and two standard deviations, and in black a Normal with the mean and the variance of the codes:


# %%
def ellipse(panel: plt.Axes, q: dist.Distribution, colour: str, label: str | None = None, style: str = "-") -> None:
    """Draw a Normal of the plane, batch shape [], at one and two standard deviations."""
    turn = torch.linspace(0, 2 * math.pi, 100)[:, None]
    circle = torch.cat([turn.cos(), turn.sin()], 1)
    for radius in (1, 2):
        x, y = (q.mean + radius * q.stddev * circle).T
        panel.plot(x, y, style, color=colour, linewidth=1.5, label=label if radius == 1 else None)


def show_fit(model: JMVAE, guide: JMVAEGuide, title: str) -> None:
    """Show the codes of each combination and q(z | y); say how often a draw's own heads tell another combination."""
    batch = batch_of(dataset.train[:2000], "grey", dataset.attributes)
    figure, panels = plt.subplots(1, 4, figsize=(14, 4.3), layout="constrained", sharex=True, sharey=True)
    with evaluation(model, guide):
        codes = guide.posterior(**batch)
        for number, (panel, values) in enumerate(zip(panels, BOTH, strict=True)):
            members = those(values, dataset.train[:2000])
            z, scale = codes.mean[members], codes.stddev[members]
            moments = dist.Normal(z.mean(0), (z.var(0) + scale.square().mean(0)).sqrt())
            q = guide.posterior(**encoded(values[None]))
            panel.scatter(*codes.mean[~members].T, s=3, color="0.8", linewidths=0)
            panel.scatter(*z.T, s=4, color=f"C{number}", linewidths=0)
            ellipse(panel, moments, "black", "moments of the codes", ":")
            ellipse(panel, dist.Normal(q.mean[0], q.stddev[0]), f"C{number}", "q(z | y)")
            drawn = q.sample((2000,))[:, 0]
            told = torch.cat([(head(drawn) > 0).long() for head in model.heads.values()], -1)
            wrong = float((told != values).any(-1).double().mean())
            panel.set(title=f"{words(values)}: {wrong:.0%} of draws\nlie with another combination", xlabel="z[0]")
            panel.set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
    panels[0].set_ylabel("z[1]")
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{title}: codes of training images, and q(z | y) at one and two standard deviations\n")
    plt.show()


show_fit(joint_model, joint_guide, "JMVAE")

# %% [markdown]
# JMVAE draws the coloured ellipses towards the dotted ones, as far as training has come (in the short form not far)
# and as far as four experts, one for each value of each bit, can say it for all combinations, and for one attribute
# alone as well. The parts of an ellipse that lie over grey dots belong to other combinations, and a code drawn there
# is decoded to one of them. The titles say how often that happens, by the story's own $p(y \mid z)$ at the drawn
# codes. Even the dotted ellipses reach over the borders: the moments of a region are not the region. A guide of more
# than one Normal could follow it, and would be another guide.
#
# ## The borders
#
# Where in the plane does the story change its mind? The colour is the likelier value, fainter where the story is less
# sure, and the line is where both are as likely. The dots are the means of
# $q(z \mid x)$ of test images, coloured by their true attribute.


# %%
def show_borders(model: JMVAE, guide: JMVAEGuide) -> None:
    """Show p(y1 | z) and p(y2 | z) over the plane, and test codes."""
    limit = 4.0
    grid = plots.latent_grid(torch.full((2,), -limit), torch.full((2,), limit), 120)
    panels = {}
    with evaluation(model, guide):
        z = guide.posterior(x=test_batch["x"]).mean
        for i, (head, attribute) in enumerate(zip(model.heads.values(), dataset.attributes, strict=True)):
            p = head(grid).sigmoid()
            panels[attribute.name] = (torch.cat([1 - p, p], -1), dataset.test.attributes[:, i], attribute.values)
            right = (head(z)[:, 0] > 0).long() == dataset.test.attributes[:, i]
            print(f"{attribute.name} of test images, as told by p(y{i + 1} | z) at the mean of q(z | x): ", end="")
            print(f"{right.double().mean():.1%} right")
    display(plots.decision_regions(panels, z, limit))


show_borders(joint_model, joint_guide)

# %% [markdown]
# The borders run between the regions, where few images are. What is printed is the way from an image to its attributes,
# for which no classifier was trained.
#
# ## The plane, decoded
#
# And what does the decoder make of each point of the plane? Every cell is a whole canvas, with its digit on the left or
# on the right half.


# %%
def show_plane(model: JMVAE) -> None:
    """Show what the decoder makes of a grid over the plane from -3 to 3."""
    grid = plots.latent_grid(torch.full((2,), -3.0), torch.full((2,), 3.0), 14)
    figure = plots.image_grid(decode(model, grid), 14, "mean image at each code", (-3, 3, -3, 3))
    figure.set_size_inches(12, 6.6)
    display(figure)


show_plane(joint_model)

# %% [markdown]
# Within a region the digit keeps its side and its kind and changes its style: slant, thickness, the loop of a 2. At a
# border between the sides the image does not wander from left to right. It fades on one side while it appears on the
# other, because no training image has a digit in the middle. These are the images of "a digit on both sides".
#
# ## TELBO
#
# The triple ELBO asks for something else. It keeps the bound of $\log p(x, y)$ and adds those of $\log p(x)$ and of
# $\log p(y)$, each with its own guide:
#
# $$
# \mathrm{ELBO}(x, y) + \mathrm{ELBO}(x) + \mathrm{ELBO}(y).
# $$
#
# In the last two, what is missing is hidden. $q(z \mid y)$ never meets the codes of images now. It is to find codes
# of which the story's own $p(y \mid z)$ says $y$, and otherwise to stay near the prior; and since the same bound
# trains the story too, the borders may move so as to suit it. As before, some images count all their attributes in
# ELBO(y) and others one; what is not chosen becomes NaN, which counts in no bound. Same pair, same first
# weights, same steps:

# %%
triple_model, triple_guide, triple_rows = train(lambda _: telbo(mean_field, choose=some_of), dataset)
terms = {"elbo": unit, "elbo_x": unit, "elbo_y": "nats per datum"}
display(plots.learning_curves(triple_rows, terms))
no_image = poutine.block(triple_model, hide=["x"])
with evaluation(triple_model, triple_guide):
    elbo_y = mean_field(no_image, triple_guide, particles=500, **encoded(BOTH))["elbo"]
print(f"elbo(y), averaged over the four combinations: {elbo_y:.3f} nats; log 1/4 is {math.log(1 / 4):.3f}")

# %% [markdown]
# `elbo_y` has not far to go. It bounds the log-probability of the attributes alone, and four combinations that are
# equally likely have $\log \frac{1}{4}$ each. (The curve lies higher, because half of the images, on average, count
# one attribute only.) Nor need it rise. A story that says the same of every code has a perfect $q(z \mid y)$, the
# prior. The sharper the borders become for the sake of the other two bounds, the less a Normal can follow them, and
# most of what is left between the two numbers is how far $q(z \mid y)$ is from the posterior that the story itself
# has. Here is what comes of it: images, codes, and borders.

# %%
show_imagined(triple_model, triple_guide, "TELBO")
show_codes(triple_guide)
show_fit(triple_model, triple_guide, "TELBO")
show_borders(triple_model, triple_guide)

# %% [markdown]
# Nothing draws these ellipses to the moments of the codes. `elbo_y` is content when $q(z \mid y)$ is close to the
# story's own posterior, $p(z \mid y) \propto p(z)\, p(y_1 \mid z)\, p(y_2 \mid z)$, and a story that is none too sure
# near its borders makes that easier. How sure each story is of the attributes at the codes of the test images:

# %%
for title, rows in {"JMVAE": joint_rows, "TELBO": triple_rows}.items():
    sure = ", ".join(f"log p({y} | z) {rows[-1][f'test_reconstruction_{y}']:.3f}" for y in ("y1", "y2"))
    print(f"{title}: {sure} nats, on average")

# %% [markdown]
# ## Are the images right, and do they vary?
#
# Looking at images is not measuring. The paper on TELBO measures with a judge: a classifier that is trained on the
# training images and their attributes and knows nothing of the model. Of imagined images it tells the attributes, and
#
# * **correctness** is the share of the attributes asked for that the images show;
# * **coverage** looks at the attribute that was *not* asked for: how near its frequencies come to those of the training
#   data. It is 1 less the Jensen-Shannon divergence in bits, 1 at best and 0 at worst.
#
# The first can be had by imagining the same safe image again and again, which costs the second, if the safe image has
# one side or one digit. First of all, how good is the judge?

# %%
judge = attribute_classifier(dataset, "grey", steps=60 if SHORT else 500)
right = judge.told(test_batch["x"]) == dataset.test.attributes
for i, attribute in enumerate(dataset.attributes):
    print(f"the judge tells the {attribute.name} of {right[:, i].double().mean():.2%} of the test images")

EACH = 100 if SHORT else 500  # images for each query
lines = ["| | correct, both given | correct, one given | coverage, one given | elbo(x, y), test |", "|" + " --- |" * 5]
unsure = {}


def judged(title: str, model: JMVAE, guide: JMVAEGuide) -> None:
    """Add a line to the table of scores; keep the correctness of each combination."""
    found = {}
    for given in (2, 1):
        asked = queries(dataset.test, given)
        images = imagine(model, guide, dataset.attributes, asked.repeat_interleave(EACH, 0), mean=True)
        told = judge.told(images).unflatten(0, (-1, EACH))
        found[given] = asked, told
        if given == 2:
            unsure[title] = {words(a): correctness(a[None], t[None]) for a, t in zip(asked, told, strict=True)}
    elbo = evaluate(model, guide, mean_field, dataset.test, "grey", attributes=dataset.attributes)["elbo"]
    covered = coverage(*found[1], dataset.train.attributes)
    lines.append(
        f"| {title} | {correctness(*found[2]):.3f} | {correctness(*found[1]):.3f} | {covered:.3f} | {elbo:.2f} |"
    )


judged("JMVAE", joint_model, joint_guide)
judged("TELBO", triple_model, triple_guide)
display(Markdown("\n".join(lines)))
for title, shares in unsure.items():
    print(f"{title}, both given: " + ", ".join(f"{name} {share:.2f}" for name, share in sorted(shares.items())))

# %% [markdown]
# The guide of JMVAE was shown where the images of each combination lie, that of TELBO never was, and the first two
# columns say what that is worth here. (One seed, and in the short form some seconds on few images: no ranking of
# methods.) The last column is the story's affair: a higher bound of $\log p(x, y)$ need not come with better
# imagination.
#
# The paper lets $\log p(y \mid z)$ weigh more than the rest in ELBO(y). Since there is no image in ELBO(y), that can
# be tried after the fact. Take the TELBO pair as it is, leave the story alone, and let a copy of the experts learn
# on, once with weight 1 and once with weight 50:


# %%
def taught_on(model: JMVAE, guide: JMVAEGuide, weight: float) -> JMVAEGuide:
    """Return a copy of the guide whose experts alone went on to learn from ELBO(y), log p(y | z) weighing more."""
    guide = copy.deepcopy(guide)
    weighted = masked(scaled(mean_field, {"y1": weight, "y2": weight}))

    def objective(story: Callable, guide: Callable, x: torch.Tensor, **y: torch.Tensor) -> dict[str, torch.Tensor]:
        return weighted(poutine.block(story, hide=["x"]), guide, **some_of(y))

    optimizer = torch.optim.Adam(guide.experts.parameters())
    to_batch = partial(batch_of, pixels="grey", attributes=dataset.attributes)
    batches = Batches(dataset.train, size=64, steps=150 if SHORT else 500, to_batch=to_batch)
    for epoch in fit(model, guide, objective, optimizer, batches, epochs=1, learning_rate=cosine(3e-3)):
        print(f"weight {weight:g}: " + ", ".join(f"{name} {value:.2f}" for name, value in epoch.terms.items()))
    return guide


further = {weight: taught_on(triple_model, triple_guide, weight) for weight in (1.0, 50.0)}
for weight, taught in further.items():
    judged(f"TELBO, experts taught on, weight {weight:g}", triple_model, taught)
display(Markdown("\n".join(lines)))
show_codes(further[50.0])

# %% [markdown]
# More of the same training changes little. With the large weight the codes keep away from the borders, and more of the
# images are right. The price is in the printed areas: the clouds have shrunk, and with them the variety of what is
# imagined, of which coverage sees only a part. In full it sees some: a cloud that is told one attribute alone no longer
# reaches over the values of the other as evenly as the data do.
#
# ## The product at work
#
# Back to JMVAE, and to "2, on the left". The grey shade is what the *story* says,
# $p(z \mid y) \propto p(z) \prod_i p(y_i \mid z)$ for the attributes given, computed on a grid; the ellipses are what
# the guide says, at one and two standard deviations. In the last panel the dashed ones are the experts themselves,
# before the prior has joined them.

# %%
target = torch.tensor([0, 1])
grid = plots.latent_grid(torch.full((2,), -4.0), torch.full((2,), 4.0), 150)
figure, panels = plt.subplots(1, 3, figsize=(14, 5), layout="constrained", sharex=True, sharey=True)
with evaluation(joint_model, joint_guide):
    heads = {site: head(grid)[:, 0] for site, head in joint_model.heads.items()}
    bits = encoded(target[None])
    for panel, given in zip(panels, (("y1",), ("y2",), ("y1", "y2")), strict=True):
        log_p = dist.Normal(0.0, 1.0).log_prob(grid).sum(-1)
        for site in given:
            log_p = log_p + dist.Bernoulli(logits=heads[site]).log_prob(bits[site][0])
        panel.imshow(log_p.exp().reshape(150, 150), cmap="Greys", extent=(-4, 4, -4, 4), alpha=0.7)
        known = [i for i in (0, 1) if f"y{i + 1}" in given]
        title = ", ".join(f"{dataset.attributes[i].name} = {dataset.attributes[i].values[target[i]]}" for i in known)
        panel.set(title=f"p(z | {title}), shaded", xlabel="z[0]", ylabel="z[1]", xlim=(-4, 4), ylim=(-4, 4))
    names = [f"q(z | {words(values[0])})" for values in (SIDE[:1], DIGIT[1:])]
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
# An expert may be wide where its attribute says nothing: a band across the plane that rules out a part and leaves the
# rest to others. (One that has learned little yet, as in the short form, can be so wide that its ellipses lie outside
# the picture.) What no one rules out remains. The prior counts once; multiplying the guess of the first panel by that
# of the second would count it twice.
#
# ## Some attributes are missing
#
# In real data not every image has all its attributes. A code of -1 says that one is missing, and becomes NaN when a
# batch is cut. Let's lose a third of them, at random:

# %%
codes = dataset.train.attributes
lost = torch.rand(codes.shape, generator=torch.Generator().manual_seed(1)) < 1 / 3
partial_data = replace(dataset, train=replace(dataset.train, attributes=codes.masked_fill(lost, -1)))
known = (partial_data.train.attributes >= 0).sum(1)
print(", ".join(f"{int((known == k).sum())} training images with {k} of their attributes" for k in (2, 1, 0)))
few = batch_of(partial_data.train[:8], "grey", dataset.attributes)
print("y1:", few["y1"][:, 0].tolist())
print("y2:", few["y2"][:, 0].tolist())

# %% [markdown]
# In the story, what is NaN must not count: `masked` does for a single datum what hiding does for all. In the guide, a
# missing attribute has no expert, and the encoder sees a zero in its place. So it makes no difference to a datum
# whether an attribute is NaN or was never passed:

# %%
nothing = torch.full((1, 1), torch.nan)
with evaluation(joint_model, joint_guide):
    one = {"x": test_batch["x"][:1], "y1": test_batch["y1"][:1]}
    for given in (one, {"y1": one["y1"]}):
        apart = kl_divergence(joint_guide.posterior(**given, y2=nothing), joint_guide.posterior(**given))
        print(f"given {', '.join(given)}: KL between y2 = NaN and no y2 at all: {apart.item():g}")
    elbo = partial(masked(mean_field), guide=joint_guide, **one)
with evaluation(joint_model, joint_guide):
    as_nan = elbo(joint_model, y2=nothing)["elbo"]
with evaluation(joint_model, joint_guide):
    as_hidden = elbo(poutine.block(joint_model, hide=["y2"]))["elbo"]
print(f"elbo with y2 = NaN: {as_nan:.4f}, with y2 hidden: {as_hidden:.4f}")

# %% [markdown]
# The same training as above, with a third of the attributes missing:

# %%
holey_model, holey_guide, _ = train(lambda guide: jmvae(mean_field, guide.posterior, choose=some_of), partial_data)
judged("JMVAE, a third missing", holey_model, holey_guide)
display(Markdown("\n".join(lines)))
show_borders(holey_model, holey_guide)
images = imagine(holey_model, holey_guide, dataset.attributes, BOTH.repeat_interleave(10, 0), mean=True)
title = "trained with a third of the attributes missing: ten images each, given y1 and y2"
display(plots.image_rows(images.unflatten(0, (-1, 10)), [words(values) for values in BOTH], title))

# %% [markdown]
# Compare the last line of the table with the first. Images without attributes teach the story what images look like,
# and images with one or two what the regions are called. (Of the short form's few images, few are left with both.)
#
# ## From the command line
#
# With a run folder, a report, and the pictures above; then images that are asked for:
#
#     python train.py jmvae
#     python train.py jmvae --source mnist
#     python train.py jmvae --preset telbo --source mnist
#     python -m pyro_models sample runs/jmvae-attributes-1 --given digit=2 side=left
#
# The second and the third need MNIST, which is fetched on first use. A file of your own is an `.npz` with `images` and
# `attributes`, whole numbers of shape [n, attributes] and -1 where one is missing, and, if they have names,
# `attribute_names`. The options that the presets set:

# %%
for preset, words in JMVAERecipe.presets.items():
    print(f"--preset {preset}: {words}")
