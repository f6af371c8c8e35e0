"""Auto-encoders: of images, with labels that some have, given a part, of cells, of objects that are looked for."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import config_enumerate
from torch import Tensor, nn

from tests.programs.pair import Pair, program

PIXELS = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
LABELS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)


def normal(network: nn.Module, x: Tensor) -> dist.Distribution:
    loc, log_scale = network(x).chunk(2, -1)
    return dist.Normal(loc, log_scale.exp()).to_event(1)


@program
def autoencoder() -> Pair:
    """A module whose methods are the model and the guide."""

    class VAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(2, 4)

        def model(self, x: Tensor) -> None:
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

        def guide(self, x: Tensor) -> None:
            pyro.module("encoder", self.encoder)
            with pyro.plate("data", len(x)):
                pyro.sample("z", normal(self.encoder, x))

    both = VAE()
    return Pair(both.model, both.guide, kwargs={"x": PIXELS}, tags=frozenset({"local", "methods", "amortised"}))


@program
def autoencoder_plain() -> Pair:
    """The same as methods of a plain object, which holds its networks; positional arguments."""

    class VAE:
        def __init__(self) -> None:
            self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(2, 4)

        def model(self, x: Tensor) -> None:
            decoder = pyro.module("decoder", self.decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("latent", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
                pyro.sample("obs", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

        def guide(self, x: Tensor) -> None:
            encoder = pyro.module("encoder", self.encoder)
            with pyro.plate("data", len(x)):
                pyro.sample("latent", normal(encoder, x))

    both = VAE()
    return Pair(both.model, both.guide, (PIXELS,), tags=frozenset({"local", "methods", "amortised"}))


@program
def autoencoder_batch_norm() -> Pair:
    """Networks with batch norm and dropout, in training mode, which must come back as they were."""
    encoder = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 4))
    decoder = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(encoder, x))

    return Pair(model, guide, kwargs={"x": PIXELS}, tags=frozenset({"local", "batch-norm"}))


class Labelled(nn.Module):
    """A semi-supervised auto-encoder: labels are drawn where they are not given."""

    def __init__(self) -> None:
        super().__init__()
        self.classify, self.encode, self.decode = nn.Linear(4, 2), nn.Linear(6, 4), nn.Linear(4, 4)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("labelled", self)
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(torch.full((len(x), 2), 0.5)), obs=y)
            both = torch.cat(torch.broadcast_tensors(z, y), -1)
            pyro.sample("x", dist.Bernoulli(logits=self.decode(both)).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data"):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=self.classify(x)))
            both = torch.cat([x.expand(*y.shape[:-1], 4), y], -1)
            pyro.sample("z", normal(self.encode, both))


@program
def semi_supervised_with() -> Pair:
    """With labels, in a plate that takes its size from what is in it."""
    pair = Labelled()
    return Pair(pair.model, pair.guide, (PIXELS, LABELS), tags=frozenset({"local", "methods", "amortised"}))


@program
def semi_supervised_without() -> Pair:
    """Without labels, which are enumerated in the guide, expanded."""
    pair = Labelled()
    guide = config_enumerate(pair.guide, "parallel", expand=True)
    return Pair(pair.model, guide, (PIXELS,), nesting=1, tags=frozenset({"local", "discrete", "expand"}))


@program
def conditional() -> Pair:
    """Given a part of the pixels, the others: the prior depends on an argument, which is observed nowhere."""
    prior, encoder, decoder = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(2, 2)

    def model(given: Tensor, rest: Tensor) -> None:
        pyro.module("prior", prior), pyro.module("decoder", decoder)
        with pyro.plate("data", len(given)):
            z = pyro.sample("z", normal(prior, given))
            pyro.sample("rest", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=rest)

    def guide(given: Tensor, rest: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(given)):
            pyro.sample("z", normal(encoder, torch.cat([given, rest], -1)))

    data = {"given": PIXELS[:, :2], "rest": PIXELS[:, 2:]}
    return Pair(model, guide, kwargs=data, tags=frozenset({"local", "amortised", "argument"}))


class Cells(nn.Module):
    """Cells with labels: a parameter of the store for all, latents in the reverse order, a loss in the guide."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(2, 4)
        self.read, self.classify, self.back = nn.Linear(4, 4), nn.Linear(2, 2), nn.Linear(4, 4)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("cells", self)
        dispersion = pyro.param("dispersion", torch.ones(4), constraints.positive)
        with pyro.plate("batch", len(x)), poutine.scale(scale=0.1):
            z1 = pyro.sample("z1", dist.Normal(0.0, torch.ones(2)).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=torch.zeros(2)), obs=y)
            z2 = pyro.sample("z2", normal(self.inner, torch.cat(torch.broadcast_tensors(z1, y), -1)))
            logits = self.outer(z2)
            pyro.sample("x", dist.NegativeBinomial(dispersion, logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("cells", self)
        with pyro.plate("batch", len(x)), poutine.scale(scale=0.1):
            z2 = pyro.sample("z2", normal(self.read, x))
            labels = dist.OneHotCategorical(logits=self.classify(z2))
            if y is None:
                y = pyro.sample("y", labels)
            else:
                pyro.factor("classification", -0.5 * labels.log_prob(y), has_rsample=False)
            pyro.sample("z1", normal(self.back, torch.cat([z2.expand(*y.shape[:-1], 2), y], -1)))


@program
def cells_with_labels() -> Pair:
    """A factor in the guide, a scale around both."""
    pair = Cells()
    data = {"x": 2 * PIXELS, "y": LABELS}
    return Pair(pair.model, pair.guide, kwargs=data, nesting=1, tags=frozenset({"local", "order", "scale", "factor"}))


@program
def cells_without_labels() -> Pair:
    """Labels enumerated in the guide, and a latent after them."""
    pair = Cells()
    guide = config_enumerate(pair.guide, "parallel", expand=True)
    tags = frozenset({"local", "order", "scale", "discrete", "expand"})
    return Pair(pair.model, guide, kwargs={"x": 2 * PIXELS}, nesting=1, tags=tags)


@program
def attend() -> Pair:
    """Objects one after the other, each only if there was one before: latent masks, a subsample in the guide alone."""

    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step, self.look, self.draw = nn.GRUCell(5, 3), nn.Linear(3, 3), nn.Linear(1, 4)

        def model(self, data: Tensor, size: int | None = None) -> None:
            pyro.module("draw", self.draw)
            with pyro.plate("data", len(data)) as index:
                batch = data[index]
                there, picture = torch.ones(len(batch), 1), torch.zeros(len(batch), 4)
                for t in range(2):
                    there = pyro.sample(f"there_{t}", dist.Bernoulli(0.5 * there).to_event(1))
                    what = pyro.sample(
                        f"what_{t}", dist.Normal(torch.zeros(len(batch), 1), 1.0).mask(there.bool()).to_event(1)
                    )
                    picture = picture + there * self.draw(what)
                pyro.sample("obs", dist.Normal(picture, 0.5).to_event(1), obs=batch)

        def guide(self, data: Tensor, size: int | None = None) -> None:
            pyro.module("step", self.step), pyro.module("look", self.look)
            with pyro.plate("data", len(data), subsample_size=size) as index:
                batch = data[index]
                state, there = torch.zeros(len(batch), 3), torch.ones(len(batch), 1)
                for t in range(2):
                    state = self.step(torch.cat([batch, there], -1), state)
                    logit, loc, log_scale = self.look(state).unsqueeze(-1).unbind(-2)
                    there = pyro.sample(f"there_{t}", dist.Bernoulli(logit.sigmoid() * there).to_event(1))
                    fn = dist.Normal(loc, log_scale.exp()).mask(there.bool()).to_event(1)
                    pyro.sample(f"what_{t}", fn)

    both = Attend()
    return Pair(both.model, both.guide, (PIXELS,), tags=frozenset({"local", "discrete", "dist-mask", "methods"}))


@program
def attend_subsampled() -> Pair:
    """The same, two of three data at a time."""
    pair = attend()
    return Pair(pair.model, pair.guide, (PIXELS, 2), tags=pair.tags | {"subsample"})
