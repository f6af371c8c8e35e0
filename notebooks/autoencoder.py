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
# # The auto-encoder as a probabilistic program
#
# An auto-encoder compresses an image to a few numbers, the latents `z`, and reconstructs the image from them. It is
# usually written as a network and a loss. Here it is written as two small programs instead:
#
# * the **story** is the generative model: how an image comes about from a latent `z`;
# * the **guide** is the inference: which `z` belongs to a given image.
#
# No knowledge of Pyro is assumed, beyond one line: `pyro.sample(name, distribution)` draws `name` from the
# distribution, and with `obs=` it conditions on an observed value instead.

# %%
# %matplotlib inline
import os

import torch
from IPython.display import HTML, display

import pyro_models as ps
from pyro_models.guides import AutoencoderGuide
from pyro_models import metrics, plots
from pyro_models.data import to_float
from pyro_models.recipes import AutoencoderRecipe
from pyro_models.training import parameters

SHORT = bool(os.environ.get("PYRO_STORIES_SHORT"))  # on scikit-learn's small digits, in under a minute
dataset = ps.load("digits" if SHORT else "mnist")
print(f"{dataset.name}: {len(dataset.train)} training, {len(dataset.test)} test images of {dataset.shape}")

# %%
print(ps.Autoencoder.__doc__)
print(AutoencoderGuide.__doc__)

# %% [markdown]
# The latent `z` has no proper prior (its density is *masked*: it adds nothing to the log-density). The image is Normal
# around the decoder's output, with scale 1. The guide has no uncertainty about `z`: its distribution is a Delta.
#
# Training maximises the ELBO: the average of `log p(x, z) - log q(z | x)`. The two latent terms are constant
# here, so that only `log Normal(x; decoder(z), 1)` is left, and that is minus half the squared error and a
# constant. The auto-encoder's usual loss is not put in by hand. It follows from the model.

# %% [markdown]
# ## One layer each way
#
# One layer with a sigmoid each way, 784-20-784. A recipe holds the options of a training run and builds the pair, the
# batches and the objective. `fit` is a generator: each `next` is one pass over the images, and what happens between
# passes (here: keeping reconstructions, and the errors) is up to the caller.

# %%
examples = torch.stack([dataset.test.x[dataset.test.labels == digit][0] for digit in range(10)])
originals = to_float(examples, "grey")


def train(recipe: AutoencoderRecipe):
    """Train a recipe's pair; return it with its errors and its reconstructions over the epochs."""
    torch.manual_seed(recipe.seed)
    model, guide = recipe.pair(dataset)
    optimizer = torch.optim.Adam(parameters(model, guide), lr=recipe.learning_rate, fused=True)
    objective, batches = recipe.bound(), recipe.batches(dataset)

    def squared_error(batch):
        return {"mse": (metrics.reconstruct(model, guide, batch) - batch["x"]).square().mean()}

    errors, frames = [], []
    for epoch in ps.fit(model, guide, batches, objective, optimizer, epochs=recipe.epochs, seed=recipe.seed):
        row = {"epoch": epoch.number}
        for name in ("train", "validation"):
            parts = metrics.in_batches(recipe.batch(dataset, dataset.parts[name]), 1000)
            row[f"{name}_mse"] = metrics.evaluate(model, guide, objective, parts, scores=squared_error)["mse"]
        errors.append(row)
        with metrics.eval_mode(model, guide):
            frames.append(metrics.reconstruct(model, guide, {"x": originals}))
    return model, guide, errors, torch.stack(frames)


EPOCHS = 40 if SHORT else 50
FEW_DATA = {"batch_size": 16, "learning_rate": 0.003} if SHORT else {}  # more steps in an epoch, and smaller ones
simple = AutoencoderRecipe.preset("sigmoid", epochs=EPOCHS, **FEW_DATA)
model, guide, errors, frames = train(simple)
print(
    "mean squared error of a validation pixel:",
    " -> ".join(f"{row['validation_mse']:.4f}" for row in errors[:: max(1, EPOCHS // 5)]),
)

# %%
display(plots.learning_curves(errors, {"mse": "squared intensity per pixel"}))

# %% [markdown]
# One fixed test image of each digit, above its reconstruction as training goes on:

# %%
numbers = [row["epoch"] for row in errors]
display(plots.reconstructions(originals, frames[-1], f"epoch {numbers[-1]}"))
HTML(plots.reconstruction_animation(originals, frames, numbers).to_jshtml())

# %% [markdown]
# ## Tied weights
#
# The decoder's weight is the transpose of the encoder's: the same tensor, so three parameter tensors are left
# of four. With fewer parameters the error falls faster at first. In the end that of the untied net is smaller: one
# matrix has to be large for the decoder and small for the encoder.

# %%
tied = AutoencoderRecipe.preset("sigmoid", epochs=EPOCHS, tied=True, **FEW_DATA)
tied_model, tied_guide, tied_errors, tied_frames = train(tied)
for name, pair, rows in (("simple", (model, guide), errors), ("tied", (tied_model, tied_guide), tied_errors)):
    each = ", ".join(f"{row['validation_mse']:.4f} after {row['epoch']}" for row in (rows[0], rows[-1]))
    print(f"{name}: {len(parameters(*pair))} tensors, validation error {each}")
display(plots.reconstructions(originals, tied_frames[-1], f"tied, epoch {numbers[-1]}"))

# %% [markdown]
# ## Do the latents separate the digits?
#
# The labels played no part in the training. Do the latents separate the digits all the same? First two latents, drawn
# as they are. Then t-SNE, which lays points out in the plane so that neighbours stay neighbours: of the raw pixels, of
# the two latents, and of the twenty latents.

# %% figure="autoencoder-pixels-and-latents.png"
plane_recipe = AutoencoderRecipe.preset("sigmoid", epochs=EPOCHS, latent_dim=2, **FEW_DATA)
_, plane_guide, _, _ = train(plane_recipe)
subset = dataset.test[: 300 if SHORT else 2000]
batch = simple.batch(dataset, subset)
two, twenty = metrics.encode(plane_guide, [batch]), metrics.encode(guide, [batch])
display(plots.latent_map({"the two latents": two}, subset.labels))
panels = {
    "t-SNE of raw pixels": plots.tsne(batch["x"]),
    "t-SNE of the 2-D latents": plots.tsne(two),
    "t-SNE of the 20-D latents": plots.tsne(twenty),
}
display(plots.latent_map(panels, subset.labels))

# %% [markdown]
# Two latents behind one sigmoid layer are too few for this net to separate ten digits. Twenty keep the groups
# that the raw pixels show, in a fortieth of the dimensions.
#
# The next notebook gives `z` a proper prior and the guide a scale, and the auto-encoder becomes a VAE.
