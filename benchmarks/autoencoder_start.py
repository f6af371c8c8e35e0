"""Where the article's auto-encoder starts from: its error on validation images under several first weights.

The article's net stays at the error of the mean image for five epochs; with torch's first weights it does not.
"""

from functools import partial

import torch

from pyro_models import fit, nn
from pyro_models.recipes import AutoencoderRecipe
from pyro_models.training.loop import parameters

START = {"torch's own": lambda net: net, "Glorot's": nn.glorot, "Normal(0, 0.01)": partial(nn.normal_init, scale=0.01)}


def main() -> None:
    recipe = AutoencoderRecipe.preset("sigmoid", data="mnist")
    data = recipe.load()
    mean = data.train.x.float().mean(0)
    print(f"mean image: {(data.validation.x - mean).div(255).square().mean():.4f}")
    for name, start in START.items():
        torch.manual_seed(recipe.seed)
        model, guide = recipe.pair(data)
        for half in (model.decoder, guide.encoder):
            start(half)
        optimizer = torch.optim.Adam(parameters(model, guide), lr=recipe.learning_rate, fused=True)
        validation, errors = recipe.batch(data, data.validation), []
        for _ in fit(model, guide, recipe.batches(data), recipe.bound(), optimizer, epochs=2, seed=recipe.seed):
            with torch.no_grad():
                found = model.likelihood_of(guide.posterior(**validation).mean).mean
            errors.append(f"{(found - validation['x']).square().mean():.4f}")
        print(f"{name}: {', '.join(errors)} after 1, 2 epochs", flush=True)


if __name__ == "__main__":
    main()
