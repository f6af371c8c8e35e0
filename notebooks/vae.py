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
# # The variational auto-encoder, told as a story
#
# A VAE is a story about how images come about, and a guess at how each one did:
#
# | | on paper | in code |
# | --- | --- | --- |
# | story | $z \sim \mathrm{Normal}(0, I)$, $x \sim \mathrm{Bernoulli}(\mathrm{decoder}(z))$ | `pyro_models.vae.VAE` |
# | guide | $q(z \mid x) = \mathrm{Normal}(\mathrm{loc}(x), \mathrm{scale}(x))$ | `guides.vae.VAEGuide` |
# | objective | $\mathrm{E}_q[\log p(x \mid z)] - \mathrm{KL}(q(z \mid x) \,\Vert\, p(z))$ | `pyro_models.objectives` |
#
# Each row is a separate piece, and each can be changed without touching the others.

# %%
# %matplotlib inline
import os
from functools import partial

import matplotlib.pyplot as plt
import torch
from IPython.display import display

from guides.vae import VAEGuide
from pyro_models.metrics.evaluation import codes, decode, reconstruct
from pyro_models import plots
from pyro_models.likelihood.importance import log_likelihood
from pyro_models.metrics.evaluation import evaluate, evaluation
from pyro_models.data import Batches, batch_of, load, to_float
from pyro_models.objectives import iwae, mean_field, scaled, trace
from pyro_models.training.fit import fit, parameters
from pyro_models.training.schedules import cosine
from pyro_models.recipes.vae import VAERecipe
from pyro_models.vae import VAE

SHORT = bool(os.environ.get("PYRO_STORIES_SHORT"))  # a few epochs on scikit-learn's digits, for a quick look
dataset = load("digits" if SHORT else "mnist")
EPOCHS = 3 if SHORT else 100
print(f"{dataset.name}: {len(dataset.train)} training, {len(dataset.test)} test images of {dataset.shape}")

# %%
print(VAE.__doc__)
print(VAEGuide.__doc__)

# %% [markdown]
# The story is a Python program. Run it with nothing observed and it makes images up. This one has not learned
# anything yet, so they are noise:

# %%
article = VAERecipe.preset("article", epochs=EPOCHS)
torch.manual_seed(article.seed)
untrained, _ = article.pair(dataset.shape)
with torch.no_grad():
    display(plots.image_grid(untrained(batch=8), 8, "eight images from the untrained story"))

# %% [markdown]
# ## Training it
#
# The article's net: 784-512-z and back, Adam at 0.001, batches of 128, 100 epochs. Grey pixels go through a
# Bernoulli's cross-entropy as they are (`grey` is the name of that choice here, and it stands beside every
# likelihood below, because likelihoods of differently treated pixels do not compare).

# %%
eight = to_float(dataset.test.x[:8], "grey")


def train(recipe: VAERecipe, objective=None):
    """Train a recipe's pair; return it with its terms and eight reconstructions over the epochs."""
    torch.manual_seed(recipe.seed)
    model, guide = recipe.pair(dataset.shape)
    optimizer = torch.optim.Adam(parameters(model, guide), lr=recipe.learning_rate, fused=True)
    batches = Batches(
        dataset.train, size=recipe.batch_size, seed=recipe.seed, to_batch=partial(batch_of, pixels=recipe.pixels)
    )
    objective = objective or recipe.bound()
    rate = cosine(recipe.learning_rate) if recipe.schedule == "cosine" else None
    rows, kept = [], {}
    for epoch in fit(
        model, guide, objective, optimizer, batches, epochs=recipe.epochs, seed=recipe.seed, learning_rate=rate
    ):
        row = {"epoch": epoch.number} | {f"train_{name}": value for name, value in epoch.terms.items()}
        figures_now = evaluate(model, guide, mean_field, dataset.test, recipe.pixels)
        rows.append(row | {f"test_{name}": value for name, value in figures_now.items()})
        with evaluation(model, guide):
            kept[epoch.number] = reconstruct(model, guide, eight)
    return model, guide, rows, kept


model, guide, rows, kept = train(article)
terms = dict.fromkeys(["elbo", "reconstruction", "kl"], article.unit(dataset))
display(plots.learning_curves(rows, terms))

# %% [markdown]
# The ELBO is two terms with opposite signs: reconstruction (higher is better) less `kl`, the price of saying
# something about `z`. With two numbers for `z` the codes are cheap and the pictures blurred.

# %%
for epoch in (min(10, EPOCHS), EPOCHS):
    display(plots.reconstructions(eight, kept[epoch], f"z of 2, epoch {epoch}"))

# %% [markdown]
# ## With twenty numbers for z

# %%
wide = VAERecipe.preset("article", epochs=EPOCHS, latent_dim=20)
_, _, wide_rows, wide_kept = train(wide)
display(plots.reconstructions(eight, wide_kept[EPOCHS], f"z of 20, epoch {EPOCHS}"))
print(
    f"-ELBO on test images, grey pixels: z of 2 {-rows[-1]['test_elbo']:.1f}, z of 20 {-wide_rows[-1]['test_elbo']:.1f}"
)

# %% [markdown]
# ## The plane of codes
#
# The mean of q(z | x) for each test image, coloured by its digit, which the model has never been told. Beside
# it, what the decoder makes of each place in the plane.

# %%
display(
    plots.latent_map(
        {"E[q(z | x)] of the test images": codes(guide, dataset.test, "grey")}, dataset.test.labels, limit=6
    )
)
model.eval()
grid = plots.latent_grid(torch.tensor([-3.0, -3.0]), torch.tensor([3.0, 3.0]), 20)
display(plots.image_grid(decode(model, grid), 20, "the decoder over the plane (grey pixels)", (-3, 3, -3, 3)))

# %% [markdown]
# ## Swapping the objective
#
# The story and the guide stay as they are. `trace` estimates the KL from the draw itself, `mean_field` has it in
# closed form, `iwae` draws several codes for each image and bounds the evidence more tightly, and `scaled`
# weighs the KL by beta. Same pair, same images, four objectives:

# %%
x = to_float(dataset.test.x[:200], "grey")
with evaluation(model, guide):
    for name, objective in {
        "trace": trace,
        "mean-field": mean_field,
        "iwae of 50": lambda *pair, **batch: iwae(*pair, particles=50, **batch),
        "mean-field, beta 4": scaled(mean_field, {"z": 4.0}),
    }.items():
        terms = objective(model, guide, x=x)
        values = ", ".join(f"{term} {float(value):.2f}" for term, value in terms.items())
        print(f"{name:>18}: {values} ({article.unit(dataset)})")

# %% [markdown]
# `elbo` means the same in each row: only `loss`, the number that training lowers, feels the estimator and beta.
# A beta above 1 buys smoother, less informative codes. Below, the same net trained with beta 1 and beta 4:

# %%
short = EPOCHS if SHORT else 20
for beta in (1.0, 4.0):
    _, _, beta_rows, _ = train(VAERecipe(network="article", beta=beta, epochs=short))
    last = beta_rows[-1]
    terms = f"reconstruction {last['test_reconstruction']:.1f}, kl {last['test_kl']:.2f}"
    print(f"beta {beta:g}: {terms} nats per image (grey pixels)")

# %% [markdown]
# ## How good is the bound?
#
# The ELBO lies below `log p(x)`. Importance sampling closes most of the gap:

# %%
values = [(k, log_likelihood(model, guide, dataset.test[:100], "grey", samples=k).mean()) for k in (1, 10, 100, 1000)]
axes = plt.figure(figsize=(4.5, 3)).subplots()
axes.semilogx(*zip(*values, strict=True), marker="o")
axes.set(xlabel="samples", ylabel="nats per image (grey pixels)", title="log p(x) of 100 test images")
plt.show()
