"""The list of recipes: the command line, its help, the README's table and the tests all come from it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_type_hints

from pyro_models.base.errors import UserError, nearest
from pyro_models.base.markdown import markdown
from pyro_models.base.names import WEIGHTED
from pyro_models.training.options import flag, option
from pyro_models.training.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from pyro_models.data import Attribute, Dataset, Split
    from pyro_models.distributions import Likelihood
    from pyro_models.objectives import Objective


@dataclass(frozen=True)
class LatentRecipe(Recipe):
    """The options of the recipes with a latent code, and so a bound to estimate."""

    latent_dim: int = option(2, "size of the code z", 1, 4096)
    elbo: Literal["trace", "mean-field", "graph", "enum", "iwae", "renyi", "rws", "dreg"] = option(
        "mean-field", "estimator of the bound"
    )
    particles: int = option(1, "draws for each datum; iwae, renyi, rws and dreg want more than 1", 1, 10**5)
    alpha: float = option(0.5, "order of the renyi bound; 0 is iwae", 0.0, 100.0)
    beta: float = option(1.0, "weight of the kl of z in the loss", 0.0, 1e6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.elbo in ("graph", "enum") and not self.kinds:
            raise UserError(f"--elbo {self.elbo} is for discrete sites, of which {self.name} has none: use mean-field")
        if self.elbo in WEIGHTED:
            if self.beta != 1.0:
                raise UserError(f"--beta {self.beta:g} with --elbo {self.elbo} bounds nothing: use trace or mean-field")
            if self.particles == 1:
                raise UserError(f"--elbo {self.elbo} with --particles 1 is the plain ELBO: ask for 2 or more")
        if self.elbo == "renyi" and self.alpha == 1.0:
            raise UserError("--alpha 1 is the plain ELBO: use --elbo trace")
        if self.elbo != "renyi" and self.alpha != LatentRecipe.alpha:
            raise UserError(f"--alpha goes with --elbo renyi, not with {self.elbo}")

    def bound(self) -> "Objective":
        """Build the estimator of the bound, which is also what test data are evaluated with."""
        from functools import partial

        from pyro_models.objectives import ESTIMATORS, tempered

        options: dict[str, Any] = {"particles": self.particles}
        if self.elbo == "renyi":
            options["alpha"] = self.alpha
        return tempered(partial(ESTIMATORS[self.elbo], **options), {"z": self.beta})


@dataclass(frozen=True)
class KindsRecipe(Recipe):
    """The options of the recipes that guess a kind, q(y | x): labels, and terms that need none."""

    kinds: int = option(10, "how many there are", 2, 1000)
    labels: int = option(0, "how many training labels are seen", 0)
    label_seed: int | None = option(None, "of their draw; none draws by --seed", 0)
    stratified: bool = option(True, "draw as many labels of each kind")
    split: Literal["official", "article"] = option(
        "official", "article: 10,000 training images for validation, labels drawn as there, by scikit-learn"
    )
    vat: float = option(0.0, "weight of KL(q(y | x) || q(y | x + r)), r the worst step", 0.0, 1e6)
    radius: float = option(2.5, "length of r, in the units of the data", 0.0, 1e6)
    finite_difference: float = option(0.1, "length of the steps that find r", 1e-12, 1e6)
    iterations: int = option(1, "of the power method that finds r", 1, 100)
    consistency: float = option(0.0, "weight of KL(q(y | x) || q(y | x moved a little))", 0.0, 1e6)
    jitter: float = option(0.2, "how little: sd of the affine map, or of a row's noise", 0.0, 10.0)
    balance: float = option(0.0, "weight of KL(mean q(y | x) || uniform)", 0.0, 1e6)
    decision: float = option(0.0, "weight of the entropy of q(y | x)", 0.0, 1e6)

    def load(self, data_dir: "Path | None") -> "Dataset":
        """Load the data, split as asked for."""
        from pyro_models.data import load

        return load(self.data, data_dir=data_dir, pixels=self.pixels, split=self.split)

    def check_data(self, dataset: "Dataset") -> None:
        """Refuse data that the recipe cannot learn from."""
        if self.kinds > len(dataset.train):
            raise UserError(f"--kinds {self.kinds} is more than the {len(dataset.train)} training data")
        if self.labels:
            from pyro_models.data import check_labels

            for split in (dataset.train, dataset.validation, dataset.test):
                check_labels(split, self.kinds)

    def terms(self) -> dict[str, Any]:
        """Return the weight and the function of each term of q(y | x)."""
        from functools import partial

        from pyro_models import objectives

        worst = partial(
            objectives.vat, radius=self.radius, finite_difference=self.finite_difference, iterations=self.iterations
        )
        moved = partial(objectives.consistency, jitter=partial(objectives.jitter, amount=self.jitter))
        return {
            "vat": (self.vat, worst),
            "consistency": (self.consistency, moved),
            "marginal_kl": (self.balance, objectives.marginal_kl),
            "entropy": (self.decision, objectives.entropy),
        }

    def draw_labels(self, train: "Split") -> "tuple[Split, Split]":
        """Draw the training data whose labels are seen: those, and the others."""
        from pyro_models.data import draw_labels

        seed = self.seed if self.label_seed is None else self.label_seed
        how: Any = "article" if self.split == "article" else ("stratified" if self.stratified else "random")
        return draw_labels(train, self.labels, self.kinds, seed=seed, how=how)


@dataclass(frozen=True)
class VariationalRecipe(LatentRecipe):
    """The options of the recipes that have a likelihood to choose."""

    likelihood: Literal["bernoulli", "continuous-bernoulli", "normal"] = option("bernoulli", "of x given z")
    encoder_dropout: float = option(0.2, "share of pixels hidden from the encoder while it trains", 0.0, 0.99)
    scale: float | None = option(None, "of the normal likelihood; none learns it", 1e-3, 1e3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale is not None and self.likelihood != "normal":
            raise UserError(f"--scale goes with --likelihood normal, not with {self.likelihood}")
        if self.likelihood != "bernoulli" and self.pixels != "grey":
            raise UserError(f"--likelihood {self.likelihood} is a density of grey pixels, not of {self.pixels} ones")

    def unit(self, dataset: "Dataset") -> str:
        """Return the unit of likelihoods: the Bernoulli goes without saying, a density does not."""
        return super().unit(dataset) + ("" if self.likelihood == "bernoulli" else f", {self.likelihood} likelihood")

    def _likelihood(self, shape: tuple[int, ...]) -> "Likelihood":
        from pyro_models import distributions

        if self.likelihood == "normal":
            return distributions.NormalLikelihood(self.scale, len(shape))
        if self.likelihood == "continuous-bernoulli":
            return distributions.continuous_bernoulli
        return distributions.grey_bernoulli if self.pixels == "grey" else distributions.bernoulli


@dataclass(frozen=True)
class VAERecipe(VariationalRecipe):
    """Variational auto-encoder: z ~ Normal(0, I), x ~ likelihood(decoder(z)), q(z | x) Normal."""

    name: ClassVar[str] = "vae"
    presets: ClassVar[dict[str, str]] = {
        "article": "--network article --encoder-dropout 0 --schedule constant",
        "burda": "--data mnist --pixels dynamic --network iwae --latent-dim 50 --encoder-dropout 0 --elbo trace "
        "--batch-size 20 --epochs 3280 --schedule stages",
    }
    figures: ClassVar[tuple[str, ...]] = (
        "reconstructions",
        "latent_map",
        "decoded_plane",
        "prior_samples",
        "learning_curves",
    )

    network: Literal["residual", "article", "iwae"] = option(
        "residual", "residual MLPs; the article's 784-512-z; 784-200-200-z with tanh, of the IWAE's paper"
    )

    def pair(self, shape: tuple[int, ...], attributes: "tuple[Attribute, ...]" = ()) -> "tuple[nn.Module, nn.Module]":
        """Build the VAE and its guide."""
        from torch.nn import Tanh

        from guides.vae import VAEGuide
        from pyro_models import nn
        from pyro_models.vae import VAE

        pixels, codes = nn.size(shape), self.latent_dim
        if self.network == "article":
            encoder, decoder = nn.mlp(pixels, 512, 2 * codes), nn.mlp(codes, 512, pixels)
        elif self.network == "iwae":
            encoder = nn.glorot(nn.mlp(pixels, 200, 200, 2 * codes, activation=Tanh))
            decoder = nn.glorot(nn.mlp(codes, 200, 200, pixels, activation=Tanh))
        else:
            encoder = nn.residual_mlp(pixels, 2 * codes, width=512, depth=3)
            decoder = nn.residual_mlp(codes, pixels, width=512, depth=3)
        story = VAE(nn.decoder(decoder, shape), self._likelihood(shape), codes)
        return story, VAEGuide(nn.encoder(encoder, shape, self.encoder_dropout))


@dataclass(frozen=True)
class AutoencoderRecipe(LatentRecipe):
    """Auto-encoder: x ~ Normal(decoder(z), 1), z = encoder(x); the ELBO is minus half the squared error."""

    name: ClassVar[str] = "autoencoder"
    generative: ClassVar[bool] = False
    presets: ClassVar[dict[str, str]] = {
        "article": "--network simple --latent-dim 20 --learning-rate 0.01 --schedule constant --epochs 50"
    }
    figures: ClassVar[tuple[str, ...]] = (
        "reconstructions",
        "latent_map",
        "pixels_and_codes",
        "decoded_plane",
        "learning_curves",
    )

    network: Literal["deep", "simple", "linear"] = option("deep", "residual MLPs; one sigmoid layer each way; or none")
    tied: bool = option(False, "decode with the transpose of the encoder's weight (simple and linear)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tied and self.network == "deep":
            raise UserError("--tied goes with --network simple or --network linear, not with deep")
        if self.elbo in WEIGHTED or self.beta != 1.0:
            raise UserError("an auto-encoder draws nothing and has no kl: leave --elbo and --beta alone")

    def unit(self, dataset: "Dataset") -> str:
        """Return the unit of likelihoods, which here are a Normal's."""
        return super().unit(dataset) + ", normal likelihood"

    def pair(self, shape: tuple[int, ...], attributes: "tuple[Attribute, ...]" = ()) -> "tuple[nn.Module, nn.Module]":
        """Build the auto-encoder and its guide, which share one weight where they are tied."""
        from torch.nn import Identity, Linear, Sequential, Sigmoid

        from guides.autoencoder import AutoencoderGuide
        from pyro_models import nn
        from pyro_models.autoencoder import Autoencoder

        pixels, codes = nn.size(shape), self.latent_dim
        if self.network == "deep":
            encoder = nn.residual_mlp(pixels, codes, width=512, depth=3)
            decoder = nn.residual_mlp(codes, pixels, width=512, depth=3)
        else:
            activation = Sigmoid if self.network == "simple" else Identity
            inward = Linear(pixels, codes)
            outward = nn.TransposedLinear(inward) if self.tied else Linear(codes, pixels)
            encoder, decoder = Sequential(inward, activation()), Sequential(outward, activation())
        story = Autoencoder(nn.decoder(decoder, shape), codes)
        return story, AutoencoderGuide(nn.encoder(encoder, shape))


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


@dataclass(frozen=True)
class ClassifierRecipe(KindsRecipe):
    """Classifier: y ~ Categorical(network(x)), a few labels seen; virtual adversarial training on the other data."""

    name: ClassVar[str] = "classifier"
    explains: ClassVar[Literal["x", "y"]] = "y"
    generative: ClassVar[bool] = False
    presets: ClassVar[dict[str, str]] = {
        "article": "--network article --split article --finite-difference 1e-06 --consistency 0 --balance 0 "
        "--decision 0 --batch-size 512 --steps 100 --epochs 30 --learning-rate 0.001 "
        "--schedule constant",
        "paper": "--network paper --radius 5 --finite-difference 1e-06 --consistency 0 --balance 0 "
        "--decision 0 --batch-size 256 --steps 500 --epochs 100",
        "table": "--kinds 3 --network mlp --radius 0.3 --jitter 0.1 --batch-size 64",
    }
    figures: ClassVar[tuple[str, ...]] = (
        "confusion",
        "scores_of_classes",
        "adversaries",
        "labelled",
        "learning_curves",
    )

    labels: int = option(100, "how many training labels are seen", 1)
    unlabelled: int | None = option(None, "how many of the other training data are seen; none: all", 0)
    network: Literal["conv", "article", "paper", "mlp"] = option(
        "conv", "strided convolutions; the article's pooled ones (28 x 28 pixels); the paper's MLP; a small MLP"
    )
    vat: float = option(1.0, "weight of KL(q(y | x) || q(y | x + r)), r the worst step", 0.0, 1e6)
    consistency: float = option(2.0, "weight of KL(q(y | x) || q(y | x moved a little))", 0.0, 1e6)
    balance: float = option(1.0, "weight of KL(mean q(y | x) || uniform)", 0.0, 1e6)
    decision: float = option(0.2, "weight of the entropy of q(y | x)", 0.0, 1e6)
    batch_size: int = option(256, "data in a step beside the labelled, over all processes", 2)
    epochs: int = option(7, "how many, each a pass over the training data or as many steps as --steps says", 1, 10**5)
    learning_rate: float = option(2e-3, "step size of Adam, at its peak", 0.0, 10.0)

    def check_data(self, dataset: "Dataset") -> None:
        """Refuse data that the recipe cannot learn from."""
        if self.network == "article" and dataset.shape[1:] != (28, 28):
            raise UserError(f"--network article wants images of 28 x 28, not {list(dataset.shape)}")
        if self.network == "conv" and dataset.is_table:
            raise UserError(f"--data {self.data} is a table: use --preset table, or --network mlp")
        super().check_data(dataset)

    def unit(self, dataset: "Dataset") -> str:
        """Return the unit of log p(y | x)."""
        return "nats per label"

    def pair(self, shape: tuple[int, ...], attributes: "tuple[Attribute, ...]" = ()) -> "tuple[nn.Module, nn.Module]":
        """Build the classifier and its empty guide, which share the network."""
        from torch.nn import BatchNorm1d, ReLU, Sequential

        from guides.classifier import ClassifierGuide
        from pyro_models import nn
        from pyro_models.classifier import Classifier

        network: Any
        if self.network == "conv":
            network = nn.strided_classifier(shape, self.kinds)
        elif self.network == "article":
            network = nn.redrawn(nn.conv_classifier(shape[0], self.kinds, (32, 64), 100, 0.5), 0.02)
        elif self.network == "paper":
            sizes = (nn.size(shape), 1200, 600, 300, 150, self.kinds)
            noisy = nn.mlp(*sizes, norm=BatchNorm1d, activation=lambda: Sequential(ReLU(), nn.GaussianNoise(0.5)))
            network = nn.encoder(noisy, shape)
        else:
            network = nn.encoder(nn.mlp(nn.size(shape), 64, 64, self.kinds, norm=BatchNorm1d), shape)
        return Classifier(network), ClassifierGuide(network)

    def objective_at(self, progress: float, guide: "nn.Module", train: "Split") -> "Objective":
        """Build the log-likelihood of the labels, and the terms of the other data."""
        from pyro_models import objectives

        classify: Any = guide.classify
        terms = self.terms()
        others = objectives.regularised(objectives.unexplained(classify), terms, classify)
        useful = any(weight for weight, _ in terms.values())
        return objectives.with_labels(others if useful else None, self.bound(), classify)

    def pools(self, train: "Split") -> "tuple[Split, Split | None]":
        """Return the data without labels, or the labelled ones where there are no others, and the labelled."""
        labelled, others = self.draw_labels(train)
        if self.unlabelled is not None and self.unlabelled > len(others):
            raise UserError(f"--unlabelled {self.unlabelled} is more than the {len(others)} training data left")
        others = others[: self.unlabelled] if self.unlabelled is not None else others
        return others if len(others) else labelled, labelled


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
        bound = objectives.tempered(super().bound(), weights)  # the objectives leave out themselves what is missing
        choose = objectives.some_of if self.subsets else objectives.all_of
        if self.objective == "jmvae":
            return objectives.jmvae(bound, guide.posterior, weight=self.unimodal_weight, choose=choose)
        if self.objective == "mvae":
            return objectives.mvae(bound, choose=choose)
        bound_y = objectives.tempered(bound, dict.fromkeys(guide.sizes, self.private_weight))
        if self.variant == "two-stage" and progress < 0.5:
            return objectives.telbo(bound, bound_y=bound_y, weight_x=0.0, weight_y=0.0, choose=choose)
        still = {"joint": (), "stop-gradient": ("elbo_x", "elbo_y"), "two-stage": ("elbo", "elbo_x", "elbo_y")}
        return objectives.telbo(bound, bound_y=bound_y, still=still[self.variant], choose=choose)


RECIPES: dict[str, type[Recipe]] = {
    recipe.name: recipe for recipe in (VAERecipe, AutoencoderRecipe, GMVAERecipe, ClassifierRecipe, JMVAERecipe)
}


def from_json(content: dict[str, Any]) -> Recipe:
    """Make the recipe that `Recipe.as_json` wrote.

    Raises:
        UserError: it names an unknown recipe or option.
    """
    fields = dict(content)
    name = str(fields.pop("recipe", None))
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}: {nearest(name, RECIPES)}")
    try:
        return RECIPES[name](**fields)
    except TypeError as error:
        raise UserError(f"recipe {name!r}: {error}") from None


def table() -> str:
    """Return the recipes as a Markdown table."""
    return markdown(
        [
            {
                "recipe": f"`{name}`",
                "what it is": str(recipe.__doc__).replace("|", "\\|"),
                "networks": ", ".join(get_args(get_type_hints(recipe)["network"])),
                "presets": ", ".join(recipe.presets),
            }
            for name, recipe in RECIPES.items()
        ]
    )
