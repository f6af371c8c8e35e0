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
# # The auto-encoder, told as a story
#
# An auto-encoder squeezes an image through a narrow code and asks for the image back. It is usually written as
# a network and a loss. Here it is written as two small programs instead:
#
# * the **story** says how an image comes about from a code `z`;
# * the **guide** says which code we take for a given image.
#
# Nothing in this notebook needs Pyro known beforehand. One word is enough: `pyro.sample(name, distribution)`
# stands for "draw `name` from this distribution", and with `obs=` for "we have seen it, and it was this".

# %%
# %matplotlib inline
import os
from functools import partial

import torch
from IPython.display import HTML, display

from guides.autoencoder import AutoencoderGuide
from pyro_models.autoencoder import Autoencoder
from pyro_models.metrics.evaluation import codes, reconstruct
from pyro_models import plots
from pyro_models.metrics.evaluation import evaluate, evaluation
from pyro_models.data import Batches, batch_of, load, to_float
from pyro_models.training.fit import fit, parameters
from pyro_models.recipes.autoencoder import AutoencoderRecipe

SHORT = bool(os.environ.get("PYRO_STORIES_SHORT"))  # a few epochs on scikit-learn's digits, for a quick look
dataset = load("digits" if SHORT else "mnist")
print(f"{dataset.name}: {len(dataset.train)} training, {len(dataset.test)} test images of {dataset.shape}")

# %%
print(Autoencoder.__doc__)
print(AutoencoderGuide.__doc__)

# %% [markdown]
# Read it aloud. The code `z` may be anything at all (its density is *masked*: it counts for nothing). The image
# is Normal around what the decoder makes of `z`, with scale 1. The guide is sure of its code: a Delta.
#
# What we maximise is the ELBO: the average of `log p(x, z) - log q(z | x)`. The two latent terms are constant
# here, so that only `log Normal(x; decoder(z), 1)` is left, and that is minus half the squared error and a
# constant. The auto-encoder's usual loss is not put in by hand. It is what the story says.

# %% [markdown]
# ## The simple one
#
# One layer with a sigmoid each way, 784-20-784. Training is a generator: each `next` is one pass over the
# images, and what happens between passes (here: keeping reconstructions, and the errors) is up to us.

# %%
examples = torch.stack([dataset.test.x[dataset.test.labels == digit][0] for digit in range(10)])
originals = to_float(examples, "grey")


def train(recipe: AutoencoderRecipe):
    """Train a recipe's pair; return it with its errors and its reconstructions over the epochs."""
    torch.manual_seed(recipe.seed)
    model, guide = recipe.pair(dataset.shape)
    optimizer = torch.optim.Adam(parameters(model, guide), lr=recipe.learning_rate, fused=True)
    batches = Batches(
        dataset.train, size=recipe.batch_size, seed=recipe.seed, to_batch=partial(batch_of, pixels=recipe.pixels)
    )
    objective, errors, frames = recipe.bound(), [], []
    for epoch in fit(model, guide, objective, optimizer, batches, epochs=recipe.epochs, seed=recipe.seed):
        row = {"epoch": epoch.number}
        for name in ("train", "validation"):
            row[f"{name}_mse"] = evaluate(model, guide, objective, getattr(dataset, name), recipe.pixels)["mse"]
        errors.append(row)
        with evaluation(model, guide):
            frames.append(reconstruct(model, guide, originals))
    return model, guide, errors, torch.stack(frames)


EPOCHS = 3 if SHORT else 50
simple = AutoencoderRecipe.preset("article", epochs=EPOCHS)
model, guide, errors, frames = train(simple)
print(
    "validation error of a pixel:",
    " -> ".join(f"{row['validation_mse']:.4f}" for row in errors[:: max(1, EPOCHS // 5)]),
)

# %% [markdown]
# The error of a pixel, on training and validation images together and each alone:

# %%
for splits in (["train", "validation"], ["train"], ["validation"]):
    display(plots.learning_curves(errors, {"mse": "squared intensity per pixel"}, splits))

# %% [markdown]
# One fixed test image of each digit, above what the net makes of it as training goes on:

# %%
numbers = [row["epoch"] for row in errors]
display(plots.reconstructions(originals, frames[-1], f"epoch {numbers[-1]}"))
HTML(plots.reconstruction_animation(originals, frames, numbers).to_jshtml())

# %% [markdown]
# ## The tied one
#
# The decoder's weight is the transpose of the encoder's: the same tensor, so three parameter tensors are left
# of four. Fewer parameters, and a smaller error after as many epochs.

# %%
tied = AutoencoderRecipe.preset("article", epochs=EPOCHS, tied=True)
tied_model, tied_guide, tied_errors, tied_frames = train(tied)
for name, pair, last in (("simple", (model, guide), errors[-1]), ("tied", (tied_model, tied_guide), tied_errors[-1])):
    print(f"{name}: {len(parameters(*pair))} tensors, validation error {last['validation_mse']:.4f}")
display(plots.reconstructions(originals, tied_frames[-1], f"tied, epoch {numbers[-1]}"))

# %% [markdown]
# ## What the codes know
#
# Nobody told the nets which digit is which. Do the codes know? First a code of two numbers, drawn as it is.
# Then t-SNE, which lays points out in the plane so that neighbours stay neighbours: of the raw pixels, of the
# two-number code, and of the twenty-number code.

# %%
plane_recipe = AutoencoderRecipe.preset("article", epochs=EPOCHS, latent_dim=2)
_, plane_guide, _, _ = train(plane_recipe)
some = dataset.test[: 300 if SHORT else 2000]
two, twenty = codes(plane_guide, some, "grey"), codes(guide, some, "grey")
display(plots.latent_map({"the 2-D code itself": two}, some.labels))
panels = {
    "t-SNE of raw pixels": plots.tsne(to_float(some.x, "grey")),
    "t-SNE of the 2-D code": plots.tsne(two),
    "t-SNE of the 20-D code": plots.tsne(twenty),
}
display(plots.latent_map(panels, some.labels))

# %% [markdown]
# Two numbers behind one sigmoid layer are too few for this net to tell ten digits apart. Twenty keep the groups
# that the raw pixels show, in a fortieth of the space.
#
# The next notebook gives `z` a real prior and the guide real doubt, and the auto-encoder becomes a VAE.
