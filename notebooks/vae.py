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
# # The variational auto-encoder as a probabilistic program
#
# A VAE consists of a generative model of images, here called the *story*, an approximate posterior of its latents, the
# *guide*, and an objective that trains both:
#
# | | on paper | in code |
# | --- | --- | --- |
# | story | $z \sim \mathrm{Normal}(0, I)$, $x \sim \mathrm{Bernoulli}(\mathrm{decoder}(z))$ | `pyro_models.VAE` |
# | guide | $q(z \mid x) = \mathrm{Normal}(\mathrm{loc}(x), \mathrm{scale}(x))$ | `guides.VAEGuide` |
# | objective | $\mathrm{E}_q[\log p(x \mid z)] - \mathrm{KL}(q(z \mid x) \,\Vert\, p(z))$ | `pyro_models.objectives` |
#
# Each row is a separate piece, and each can be changed without touching the others.

# %%
# %matplotlib inline
import os
import warnings
from functools import partial

import torch
from IPython.display import display

import pyro_models as ps
from pyro_models.guides import VAEGuide
from pyro_models import metrics, plots
from pyro_models.data import to_float
from pyro_models.likelihood import UntrustedEstimate
from pyro_models.objectives import iwae, mean_field, scaled, trace
from pyro_models.recipes import VAERecipe
from pyro_models.training import cosine, parameters

SHORT = bool(os.environ.get("PYRO_STORIES_SHORT"))  # on scikit-learn's small digits, in under a minute
if SHORT:
    warnings.simplefilter("ignore", UntrustedEstimate)  # a short run has few samples, and its figures are no result
dataset = ps.load("digits" if SHORT else "mnist")
EPOCHS = 40 if SHORT else 100
print(f"{dataset.name}: {len(dataset.train)} training, {len(dataset.test)} test images of {dataset.shape}")

# %%
print(ps.VAE.__doc__)
print(VAEGuide.__doc__)

# %% [markdown]
# The story is a Python program. Run it with nothing observed and it generates images. This one is not trained yet, so
# they are noise:

# %%
article = VAERecipe.preset("kingma", epochs=EPOCHS)
torch.manual_seed(article.seed)
untrained, _ = article.pair(dataset)
with torch.no_grad():
    display(plots.image_grid(untrained(batch=8), 8, "eight images from the untrained story"))

# %% [markdown]
# ## Training it
#
# The article's net: 784-512-z and back, Adam at 0.001, batches of 128, 100 epochs. Grey pixels are the targets of a
# Bernoulli's cross-entropy as they are (`grey` is the name of that choice here, and it stands beside every
# likelihood below, because likelihoods of differently treated pixels cannot be compared).

# %%
eight = {"x": to_float(dataset.test.x[:8], "grey")}


def train(recipe: VAERecipe, objective=None):
    """Train a recipe's pair; return it with its terms and eight reconstructions over the epochs."""
    torch.manual_seed(recipe.seed)
    model, guide = recipe.pair(dataset)
    optimizer = torch.optim.Adam(parameters(model, guide), lr=recipe.learning_rate, fused=True)
    batches, test = recipe.batches(dataset), recipe.batch(dataset, dataset.test)
    objective = objective or recipe.bound()
    rate = cosine(recipe.learning_rate) if recipe.schedule == "cosine" else None
    rows, kept = [], {}
    for epoch in ps.fit(
        model, guide, batches, objective, optimizer, epochs=recipe.epochs, seed=recipe.seed, learning_rate=rate
    ):
        row = {"epoch": epoch.number} | {f"train_{name}": value for name, value in epoch.terms.items()}
        test_terms = metrics.evaluate(model, guide, mean_field, metrics.in_batches(test, 1000))
        rows.append(row | {f"test_{name}": value for name, value in test_terms.items()})
        with metrics.eval_mode(model, guide):
            kept[epoch.number] = metrics.reconstruct(model, guide, eight)
    return model, guide, rows, kept


model, guide, rows, kept = train(article)
terms = dict.fromkeys(["elbo", "reconstruction", "kl"], article.unit(dataset))
display(plots.learning_curves(rows, terms))

# %% [markdown]
# The ELBO is `reconstruction` (higher is better) less `kl`, the divergence of q(z | x) from the prior: the information
# about x that z holds has a cost. With two latents that cost is small and the reconstructions are blurred.

# %%
for epoch in (min(10, EPOCHS), EPOCHS):
    display(plots.reconstructions(eight["x"], kept[epoch], f"2-D z, epoch {epoch}"))

# %% [markdown]
# ## With twenty latents

# %%
wide = VAERecipe.preset("kingma", epochs=EPOCHS, latent_dim=20)
_, _, wide_rows, wide_kept = train(wide)
display(plots.reconstructions(eight["x"], wide_kept[EPOCHS], f"20-D z, epoch {EPOCHS}"))
print(
    f"-ELBO on test images, grey pixels: 2-D z {-rows[-1]['test_elbo']:.1f}, 20-D z {-wide_rows[-1]['test_elbo']:.1f}"
)

# %% [markdown]
# ## The latent plane
#
# The mean of q(z | x) for each test image, coloured by its digit, which the training does not use. Beside
# it, the decoder's output over a grid of the plane.

# %% figure="vae-latent-map.png vae-decoded-plane.png"
z = metrics.encode(guide, metrics.in_batches(article.batch(dataset, dataset.test), 1000))
display(plots.latent_map({"mean of q(z | x) of the test images": z}, dataset.test.labels, limit=6))
grid = plots.latent_grid(torch.tensor([-3.0, -3.0]), torch.tensor([3.0, 3.0]), 20)
display(plots.image_grid(metrics.decode(model, grid), 20, "mean image at each z (grey pixels)", (-3, 3, -3, 3)))

# %% [markdown]
# ## Swapping the objective
#
# The story and the guide stay as they are. `trace` estimates the KL from the draw itself, `mean_field` has it in
# closed form, `iwae` draws several latents for each image and bounds the evidence more tightly, and `scaled`
# weights the KL by beta. Same pair, same images, four objectives:

# %%
batch = article.batch(dataset, dataset.test[:200])
with metrics.eval_mode(model, guide):
    for name, objective in {
        "trace": trace,
        "mean-field": mean_field,
        "iwae of 50": partial(iwae, particles=50),
        "mean-field, beta 4": scaled(mean_field, {"z": 4.0}),
    }.items():
        terms = objective(model, guide, **batch)
        values = ", ".join(f"{term} {float(value):.2f}" for term, value in terms.items())
        print(f"{name:>18}: {values} ({article.unit(dataset)})")

# %% [markdown]
# `elbo` means the same in each row: only `loss`, the number that training minimises, depends on the estimator and on
# beta. A beta above 1 gives smoother latents that hold less information. Below, the same net trained with beta 1 and
# beta 4:

# %%
for beta in (1.0, 4.0):
    _, _, beta_rows, _ = train(VAERecipe(network="article", beta=beta, epochs=min(20, EPOCHS)))
    last = beta_rows[-1]
    terms = f"reconstruction {last['test_reconstruction']:.1f}, kl {last['test_kl']:.2f}"
    print(f"beta {beta:g}: {terms} nats per image (grey pixels)")

# %% [markdown]
# ## How tight is the bound?
#
# The ELBO is a lower bound of `log p(x)`. Importance sampling with many draws closes most of the gap:

# %%
images = article.batch(dataset, dataset.test[: 20 if SHORT else 100])
values = [(k, ps.log_likelihood(model, guide, images, samples=k).mean()) for k in (1, 10, 100, 1000)]
curve = {"by importance sampling": tuple(zip(*values, strict=True))}
figure = plots.lines({f"log p(x) of {len(images['x'])} test images": curve}, "samples", "nats per image (grey pixels)")
figure.axes[0].set_xscale("log")
display(figure)
