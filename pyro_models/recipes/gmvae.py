"""The recipe of the Gaussian-mixture variational auto-encoder."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pyro_models.base.errors import UserError
from pyro_models.recipes.categorical import KindsRecipe
from pyro_models.recipes.latent import VariationalRecipe
from pyro_models.recipes.options import option

if TYPE_CHECKING:
    from torch import nn

    from pyro_models.data import Attribute, Dataset, Split
    from pyro_models.objectives import Objective


@dataclass(frozen=True)
class GMVAERecipe(KindsRecipe, VariationalRecipe):
    """Gaussian-mixture VAE: y ~ Uniform, z ~ Normal(loc(y), scale(y)), x ~ likelihood(decoder(z)), q(y, z | x)."""

    name: ClassVar[str] = "gmvae"
    presets: ClassVar[dict[str, str]] = {
        "article": "--network conv --latent-dim 2 --beta 8 --encoder-dropout 0 --consistency 0 --balance 0 "
        "--decision 0 --epochs 100 --batch-size 128 --schedule constant",
        "vat": "--network strided --vat 100 --epochs 7",
        "table": "--kinds 3 --latent-dim 2 --likelihood normal --scale 0.2 --encoder-dropout 0 --jitter 0.1 "
        "--batch-size 64 --epochs 100 --learning-rate 0.003",
    }
    figures: ClassVar[tuple[str, ...]] = (
        "kinds",
        "reconstructions",
        "points",
        "latent_map",
        "prior_of_kinds",
        "confusion",
        "scores_of_classes",
        "adversaries",
        "labelled",
        "learning_curves",
    )

    latent_dim: int = option(10, "size of the code z", 1, 4096)
    network: Literal["mlp", "strided", "conv"] = option(
        "mlp", "MLPs; strided convolutions in q(y | x) and MLPs elsewhere; the article's convolutions (28 x 28 pixels)"
    )
    temperature: float = option(0.5, "of the relaxed y, which all but graph, enum and rws draw", 1e-3, 100.0)
    final_temperature: float | None = option(None, "where the temperature falls to over the run", 1e-3, 100.0)
    consistency: float = option(200.0, "weight of KL(q(y | x) || q(y | x moved a little))", 0.0, 1e6)
    balance: float = option(200.0, "weight of KL(mean q(y | x) || uniform)", 0.0, 1e6)
    decision: float = option(20.0, "weight of the entropy of q(y | x)", 0.0, 1e6)
    label_weight: float = option(1000.0, "weight of the cross-entropy of the labels", 0.0, 1e6)
    batch_size: int = option(256, "data in a step, over all processes", 2)
    epochs: int = option(20, "passes over the training data", 1, 100_000)

    @property
    def anneals(self) -> bool:
        """Whether the temperature falls."""
        return self.final_temperature is not None

    def check_data(self, dataset: "Dataset") -> None:
        """Refuse data that the recipe cannot learn from."""
        if dataset.is_table and self.likelihood != "normal":
            raise UserError(f"--data {self.data} is a table: use --preset table, or --likelihood normal")
        if self.network == "conv" and dataset.shape[1:] != (28, 28):
            raise UserError(f"--network conv wants images of 28 x 28, not {list(dataset.shape)}")
        if self.network == "strided" and dataset.is_table:
            raise UserError(f"--network strided wants images, and {self.data} is a table")
        super().check_data(dataset)

    @property
    def relaxed(self) -> bool:
        """Whether the estimator relaxes y."""
        return self.elbo not in ("graph", "enum", "rws")

    def temperature_at(self, progress: float) -> float:
        """Return the temperature when a fraction of the run is over: it falls geometrically, if it falls."""
        end = self.temperature if self.final_temperature is None else self.final_temperature
        return self.temperature ** (1 - progress) * end**progress

    @property
    def bound_of(self) -> str:
        """What the estimator's bound is a bound of, at the last temperature."""
        if not self.relaxed:
            return "the story"
        temperature = self.temperature_at(1.0)
        relaxed = f"y relaxed at temperature {temperature:g}"
        if temperature != self.temperature:
            relaxed += f" (in training from {self.temperature:g} on)"
        return f"neither story: {relaxed}, discrete kl" if self.elbo == "mean-field" else f"the story with {relaxed}"

    def pair(self, shape: tuple[int, ...], attributes: "tuple[Attribute, ...]" = ()) -> "tuple[nn.Module, nn.Module]":
        """Build the GMVAE and its guide."""
        from torch.nn import GELU, BatchNorm1d, Linear, Sequential

        from guides.gmvae import GMVAEGuide
        from pyro_models import nn
        from pyro_models.gmvae import GMVAE

        kinds, codes, likelihood = self.kinds, self.latent_dim, self._likelihood(shape)
        if self.network == "conv":
            story = GMVAE(nn.conv_component(kinds, codes), nn.conv_decoder(shape[0], codes), likelihood, kinds)
            return story, GMVAEGuide(nn.conv_classifier(shape[0], kinds), nn.ConvEncoder(shape[0], kinds, codes))
        size, width = nn.size(shape), 512 if len(shape) == 3 else 64
        component = nn.mlp(kinds, width, 2 * codes)  # p(z | y) moves faster than a table of numbers would
        decoder = nn.decoder(nn.residual_mlp(codes, size, width=width, depth=1), shape)
        if self.network == "strided":
            classifier = nn.shrunk(nn.strided_classifier(shape, kinds), 0.3)
        else:
            classifier = nn.encoder(nn.shrunk(nn.mlp(size, width, width, kinds, norm=BatchNorm1d), 0.3), shape)
        body = nn.encoder(nn.mlp(size, width, width, activation=GELU), shape, self.encoder_dropout)
        encoder = nn.Conditional(body, Linear(kinds, width), Sequential(GELU(), Linear(width, 2 * codes)))
        return GMVAE(component, decoder, likelihood, kinds), GMVAEGuide(classifier, encoder)

    def bound(self, progress: float = 1.0) -> "Objective":
        """Build the estimator, relaxed where it has to be, as it is when a fraction of the run is over."""
        from pyro_models.objectives import relaxed

        if not self.relaxed:
            return super().bound()
        return relaxed(super().bound(), self.temperature_at(progress))

    def objective_at(self, progress: float, guide: "nn.Module", train: "Split") -> "Objective":
        """Build the bound with its terms of q(y | x), and of the labels where some are seen."""
        from pyro_models import objectives

        classify: Any = guide.classify
        bound = self.bound(progress)
        whole = objectives.regularised(bound, self.terms(), classify)
        if not self.labels:
            return whole
        return objectives.with_labels(whole, bound, classify, weight=self.label_weight, share=self.labels / len(train))

    def pools(self, train: "Split") -> "tuple[Split, Split | None]":
        """Return all training data, and those whose labels are seen, if any."""
        return train, self.draw_labels(train)[0] if self.labels else None
