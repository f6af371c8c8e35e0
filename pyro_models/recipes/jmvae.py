"""The recipe of the joint multimodal variational auto-encoder."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pyro_models.base.errors import UserError
from pyro_models.base.names import WEIGHTED
from pyro_models.recipes.latent import VariationalRecipe
from pyro_models.recipes.options import flag, option

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from pyro_models.data import Attribute, Dataset, Split
    from pyro_models.objectives import Objective


MNIST_A = (
    "--data mnist-a --pixels static --network spatial --latent-dim 16 --encoder-dropout 0 --attribute-weight 10 "
    "--batch-size 128 --learning-rate 0.0015 --epochs 5 "
)


@dataclass(frozen=True)
class JMVAERecipe(VariationalRecipe):
    """Joint multimodal VAE: z ~ Normal(0, I), attributes y ~ head(z), x ~ likelihood(decoder(z)), q(z | x, y)."""

    name: ClassVar[str] = "jmvae"
    multimodal: ClassVar[bool] = True
    presets: ClassVar[dict[str, str]] = {
        "article": "--source mnist --unimodal-weight 1 --attribute-weight 1 --no-subsets --encoder-dropout 0 "
        "--batch-size 128 --steps none --epochs 10 --schedule constant",
        "labels": "--data mnist --pixels dynamic --latent-dim 64 --unimodal-weight 0.1 --attribute-weight 1 "
        "--batch-size 128 --steps 4290 --epochs 15",
        "mnist-a": MNIST_A + "--steps 5000 --beta 0.2 --unimodal-weight 0.8 --no-subsets",
        "mnist-a-telbo": MNIST_A + "--steps 4000 --objective telbo --variant stop-gradient --private-weight 3",
        "telbo": "--objective telbo --variant stop-gradient --private-weight 5",
    }
    figures: ClassVar[tuple[str, ...]] = (
        "imagined",
        "reconstructions",
        "given",
        "scales",
        "borders",
        "decoded_plane",
        "latent_map",
        "learning_curves",
    )

    data: str = option("attributes", "attributes, mnist-a, labelled images, or a file of your own with attributes")
    source: Literal["auto", "digits", "mnist"] = option(
        "auto", "of the digits; auto: digits for attributes, mnist for mnist-a"
    )
    split: Literal["iid", "compositional"] = option("iid", "of mnist-a; compositional: test combinations are all new")
    objective: Literal["jmvae", "telbo", "mvae"] = option("jmvae", "what is minimised")
    unimodal_weight: float = option(5.0, "weight of jmvae's two divergences, alpha in the paper", 0.0, 1e6)
    variant: Literal["joint", "stop-gradient", "two-stage"] = option(
        "joint", "of telbo: whether elbo(x) and elbo(y) train the story, and from the start"
    )
    private_weight: float = option(1.0, "weight of log p(y | z) in telbo's elbo(y), times --attribute-weight", 0.0, 1e6)
    image_weight: float = option(1.0, "weight of log p(x | z) in the loss", 0.0, 1e6)
    attribute_weight: float = option(30.0, "weight of each log p(y | z) in the loss", 0.0, 1e6)
    subsets: bool = option(True, "show q(z | y) some of the attributes, other ones for each datum and step")
    warm_up: float = option(0.0, "share of the run in which the weight of the kl of z rises from 0", 0.0, 1.0)
    batch_size: int = option(64, "images in a step, over all processes", 1)
    steps: int | None = option(50, "steps in an epoch, going round the training data; none makes one pass", 1, 10**6)
    epochs: int = option(40, "how many, each a pass over the training data or as many steps as --steps says", 1, 10**5)
    network: Literal["mlp", "spatial"] = option("mlp", "MLPs, or the same on a patch of the canvas that is looked for")
    width: int = option(512, "hidden units of a layer", 1, 10**5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective != "telbo" and (self.variant != "joint" or self.private_weight != 1.0):
            raise UserError(f"--variant and --private-weight go with --objective telbo, not with {self.objective}")
        if self.objective != "jmvae" and self.unimodal_weight != JMVAERecipe.unimodal_weight:
            raise UserError(f"--unimodal-weight goes with --objective jmvae, not with {self.objective}")
        if self.objective == "mvae" and not self.subsets:
            raise UserError("--objective mvae is of subsets: leave --no-subsets out")
        for name in ("image_weight", "attribute_weight", "private_weight"):
            if self.elbo in WEIGHTED and getattr(self, name) != 1.0:
                weight = f"{flag(name)} {getattr(self, name):g}"
                raise UserError(f"{weight} with --elbo {self.elbo} bounds nothing: say {flag(name)} 1")
        if self.elbo in WEIGHTED and self.warm_up:
            raise UserError(f"--warm-up with --elbo {self.elbo} bounds nothing: use trace or mean-field")

    @property
    def anneals(self) -> bool:
        """Whether the kl warms up, or a second stage follows."""
        return self.warm_up > 0 or self.variant == "two-stage"

    def load(self, data_dir: "Path | None") -> "Dataset":
        """Load the data, made of the source and split as asked for."""
        from pyro_models.data import load

        source = None if self.source == "auto" else self.source
        split: Any = "official" if self.split == "iid" else self.split
        return load(self.data, data_dir=data_dir, pixels=self.pixels, split=split, source=source)

    def check_data(self, dataset: "Dataset") -> None:
        """Refuse data that the recipe cannot learn from."""
        super().check_data(dataset)
        if not dataset.attributes:
            raise UserError(f"--data {self.data} has no attributes: labels, or an array of that name, would be some")

    def pair(self, shape: tuple[int, ...], attributes: "tuple[Attribute, ...]" = ()) -> "tuple[nn.Module, nn.Module]":
        """Build the JMVAE and its guide."""
        from torch.nn import GELU, Dropout, Linear, Module, Sequential

        from guides.jmvae import JMVAEGuide
        from pyro_models import nn
        from pyro_models.jmvae import JMVAE

        pixels, codes, width = nn.size(shape), self.latent_dim, self.width
        sizes = {f"y{i}": attribute.size for i, attribute in enumerate(attributes, 1)}
        if self.network == "spatial":
            dark = 0.0 if self.likelihood == "normal" else -4.0  # a logit
            decoder: Module = nn.SpatialDecoder(codes, shape, width=width, background=dark)
            body = Sequential(Dropout(self.encoder_dropout), nn.spatial_encoder(shape, width, width=width))
        else:
            decoder = nn.decoder(nn.residual_mlp(codes, pixels, width=width, depth=2), shape)
            body = nn.encoder(nn.residual_mlp(pixels, width, width=width, depth=1), shape, self.encoder_dropout)
        heads = {site: nn.mlp(codes, 128, size) for site, size in sizes.items()}
        head = Sequential(GELU(), Linear(width, width), GELU(), Linear(width, 2 * codes))
        product = self.objective == "mvae"
        encoder = Sequential(body, head) if product else nn.Conditional(body, Linear(sum(sizes.values()), width), head)
        experts = {site: nn.mlp(size, 128, 2 * codes) for site, size in sizes.items()}
        story = JMVAE(decoder, self._likelihood(shape), heads, codes)
        return story, JMVAEGuide(encoder, experts, sizes, product=product)

    def bound(self) -> "Objective":
        """Build the estimator of the bound of x and of the attributes that are known."""
        from pyro_models.objectives import masked

        return masked(super().bound())

    def objective_at(self, progress: float, guide: Any, train: "Split") -> "Objective":
        """Build the bound with its divergences, or the sum of bounds."""
        from pyro_models import objectives

        heat = min(1.0, progress / self.warm_up) if self.warm_up else 1.0
        weights = dict.fromkeys(guide.sizes, self.attribute_weight) | {"x": self.image_weight, "z": heat}
        bound = objectives.scaled(super().bound(), weights)  # the objectives leave out themselves what is missing
        choose = objectives.some_of if self.subsets else objectives.all_of
        if self.objective == "jmvae":
            return objectives.jmvae(bound, guide.posterior, weight=self.unimodal_weight, choose=choose)
        if self.objective == "mvae":
            return objectives.mvae(bound, choose=choose)
        bound_y = objectives.scaled(bound, dict.fromkeys(guide.sizes, self.private_weight))
        if self.variant == "two-stage" and progress < 0.5:
            return objectives.telbo(bound, bound_y=bound_y, weight_x=0.0, weight_y=0.0, choose=choose)
        frozen = {"joint": (), "stop-gradient": ("elbo_x", "elbo_y"), "two-stage": ("elbo", "elbo_x", "elbo_y")}
        return objectives.telbo(bound, bound_y=bound_y, frozen=frozen[self.variant], choose=choose)
