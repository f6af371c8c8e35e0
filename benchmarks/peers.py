"""Time of a training step of the same net in this project, by hand, and in other libraries, as ratios.

    python benchmarks/peers.py [--rounds 7] [--steps 50] [--threads 1] [--net article,small]

The net is 784-512-20 at batch 128 (article), or 784-200-200-50 at batch 20 (small), of Burda et al. Each loop is in the
idiom of its library, over the same bytes in memory; they take turns in one process. A library that is not installed
(`pip install 'pyro-stories[bench]'`) is left out by name.
"""

import argparse
import contextlib
import importlib.util
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.timing import in_turn, machine, ratio, write_section

Loop = Callable[[], None]
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Net:
    """A net, and the data that go through it: bytes [steps * batch, 784]."""

    hidden: tuple[int, ...]
    latent: int
    batch: int
    data: Tensor

    @property
    def steps(self) -> int:
        return len(self.data) // self.batch

    def encoder(self, outputs: int = 2) -> nn.Sequential:
        return layers(784, *self.hidden, outputs * self.latent)

    def decoder(self) -> nn.Sequential:
        return layers(self.latent, *reversed(self.hidden), 784)

    def batches(self):
        order = torch.randperm(len(self.data))
        for step in range(self.steps):
            yield self.data[order[step * self.batch : (step + 1) * self.batch]].float().div_(255)


def layers(*sizes: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        parts += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def ours(net: Net, compile: str) -> Loop:
    from pyro_models.guides.vae import VAEGuide

    import pyro_models as ps
    from pyro_models.data import Batches, Split, batch_of
    from pyro_models.distributions import grey_bernoulli
    from pyro_models.objectives import mean_field
    from pyro_models.training.loop import parameters
    from pyro_models.vae import VAE

    pair = VAE(net.decoder(), lambda logits: grey_bernoulli(logits, 1), net.latent), VAEGuide(net.encoder())
    optimizer = torch.optim.Adam(parameters(*pair), lr=LEARNING_RATE, fused=True)
    batches = Batches(Split(net.data), size=net.batch, to_batch=lambda rows: batch_of(rows, "grey"))
    epochs = ps.fit(*pair, batches, mean_field, optimizer, epochs=10**6, compile=compile)
    return lambda: next(epochs) and None


class HandWritten(nn.Module):
    def __init__(self, net: Net):
        super().__init__()
        self.encoder, self.decoder = net.encoder(), net.decoder()

    def forward(self, x: Tensor) -> Tensor:
        loc, log_scale = self.encoder(x).chunk(2, dim=-1)
        z = loc + log_scale.exp() * torch.randn_like(loc)
        reconstruction = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = -0.5 * (1 + 2 * log_scale - loc.square() - (2 * log_scale).exp()).sum()
        return (reconstruction + kl) / len(x)


def by_hand(net: Net, compiled: bool = False) -> Loop:
    model = HandWritten(net)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    loss_of = torch.compile(model) if compiled else model

    def epoch() -> None:
        for x in net.batches():
            optimizer.zero_grad()
            loss_of(x).backward()
            optimizer.step()

    return epoch


def numpyro(net: Net) -> Loop:
    import jax
    import jax.numpy as jnp
    import numpyro.distributions as dist
    from jax import lax, random
    from jax.example_libraries import stax
    from numpyro import module, optim, plate, sample
    from numpyro.infer import SVI, TraceMeanField_ELBO

    def dense(*sizes: int) -> list:
        return [part for size in sizes for part in (stax.Dense(size), stax.Relu)]

    encoder = stax.serial(
        *dense(*net.hidden),
        stax.FanOut(2),
        stax.parallel(stax.Dense(net.latent), stax.serial(stax.Dense(net.latent), stax.Exp)),
    )
    decoder = stax.serial(*dense(*reversed(net.hidden)), stax.Dense(784))

    def model(x):
        decode = module("decoder", decoder, (net.batch, net.latent))
        with plate("data", net.batch):
            z = sample("z", dist.Normal(0.0, 1.0).expand([net.latent]).to_event(1))
            # a product with 1 - x and with x is what a Bernoulli of grey pixels is here and there
            sample("x", dist.Bernoulli(logits=decode(z), validate_args=False).to_event(1), obs=x)

    def guide(x):
        encode = module("encoder", encoder, (net.batch, 784))
        loc, scale = encode(x)
        with plate("data", net.batch):
            sample("z", dist.Normal(loc, scale).to_event(1))

    svi = SVI(model, guide, optim.Adam(LEARNING_RATE), TraceMeanField_ELBO())
    data = jnp.asarray(net.data.numpy())
    state = svi.init(random.PRNGKey(0), data[: net.batch].astype(jnp.float32) / 255)

    @jax.jit
    def epoch(state, key):
        order = random.permutation(key, len(data)).reshape(net.steps, net.batch)

        def body(state, index):
            return svi.update(state, data[index].astype(jnp.float32) / 255)

        return lax.scan(body, state, order)

    keys = iter(random.split(random.PRNGKey(1), 10**4))

    def run() -> None:
        nonlocal state
        state, losses = epoch(state, next(keys))
        losses.block_until_ready()

    return run


def pyro_svi(net: Net, loader: bool) -> Loop:
    """The VAE of Pyro's examples, with two heads and `SVI`; from a DataLoader of images, or in memory."""
    import pyro
    import pyro.distributions as dist
    from pyro.infer import SVI, Trace_ELBO
    from pyro.optim import Adam

    body, loc_head, scale_head = layers(784, *net.hidden), *(nn.Linear(net.hidden[-1], net.latent) for _ in range(2))
    encoder, decoder = nn.ModuleList([body, loc_head, scale_head]), net.decoder()

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            prior = dist.Normal(x.new_zeros(len(x), net.latent), x.new_ones(len(x), net.latent))
            z = pyro.sample("latent", prior.to_event(1))
            loc = torch.sigmoid(decoder(z))
            pyro.sample("obs", dist.Bernoulli(loc, validate_args=False).to_event(1), obs=x.reshape(-1, 784))

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            hidden = body(x.reshape(-1, 784)).relu()
            pyro.sample("latent", dist.Normal(loc_head(hidden), scale_head(hidden).exp()).to_event(1))

    svi = SVI(model, guide, Adam({"lr": LEARNING_RATE}), loss=Trace_ELBO())
    images = torch.utils.data.DataLoader(Images(net.data), batch_size=net.batch, shuffle=True, drop_last=True)

    def epoch() -> None:
        for x in images if loader else net.batches():
            svi.step(x)

    return epoch


class Images(torch.utils.data.Dataset):
    """Images one by one, as torchvision's MNIST gives them."""

    def __init__(self, data: Tensor):
        from torchvision.transforms import ToTensor

        self.data, self.transform = data.view(-1, 28, 28), ToTensor()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image

        return self.transform(Image.fromarray(self.data[index].numpy()))


def pixyz(net: Net) -> Loop:
    from pixyz.distributions import Bernoulli, Normal
    from pixyz.models import VAE

    class Inference(Normal):
        def __init__(self):
            super().__init__(var=["z"], cond_var=["x"], name="q")
            self.body = layers(784, *net.hidden)
            self.loc, self.scale = (nn.Linear(net.hidden[-1], net.latent) for _ in range(2))

        def forward(self, x):
            hidden = F.relu(self.body(x))
            return {"loc": self.loc(hidden), "scale": F.softplus(self.scale(hidden))}

    class Generator(Bernoulli):
        def __init__(self):
            super().__init__(var=["x"], cond_var=["z"], name="p")
            self.body = net.decoder()

        def forward(self, z):
            return {"probs": torch.sigmoid(self.body(z))}

    from pixyz.losses import KullbackLeibler

    p, q = Generator(), Inference()
    prior = Normal(loc=torch.tensor(0.0), scale=torch.tensor(1.0), var=["z"], features_shape=[net.latent], name="prior")
    model = VAE(
        q, p, regularizer=KullbackLeibler(q, prior), optimizer=torch.optim.Adam, optimizer_params={"lr": LEARNING_RATE}
    )

    def epoch() -> None:
        for x in net.batches():
            model.train({"x": x})

    return epoch


def pythae(net: Net) -> Loop:
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.body = layers(784, *net.hidden)
            self.loc, self.log_var = (nn.Linear(net.hidden[-1], net.latent) for _ in range(2))

        def forward(self, x):
            hidden = F.relu(self.body(x))
            return ModelOutput(embedding=self.loc(hidden), log_covariance=self.log_var(hidden))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.body = net.decoder()

        def forward(self, z):
            return ModelOutput(reconstruction=torch.sigmoid(self.body(z)))

    config = VAEConfig(input_dim=(784,), latent_dim=net.latent, reconstruction_loss="bce")
    dataset = BaseDataset(net.data.float().div(255), torch.zeros(len(net.data)))
    settings = BaseTrainerConfig(per_device_train_batch_size=net.batch, learning_rate=LEARNING_RATE, no_cuda=True)
    trainer = BaseTrainer(VAE(config, Encoder(), Decoder()), dataset, training_config=settings)
    trainer.prepare_training()

    def epoch() -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            trainer.train_step(1)

    return epoch


def products(net: Net) -> Loop:
    """The matrix products of a step forwards and backwards, and nothing else: what no loop can leave out."""
    sizes = [(784, *net.hidden, 2 * net.latent), (net.latent, *reversed(net.hidden), 784)]
    weights = [torch.randn(outputs, inputs) for half in sizes for inputs, outputs in pairwise(half)]
    inputs = [torch.randn(net.batch, weight.shape[1]) for weight in weights]
    slopes = [torch.randn(net.batch, weight.shape[0]) for weight in weights]

    def epoch() -> None:
        for _ in range(net.steps):
            for k, (weight, x, slope) in enumerate(zip(weights, inputs, slopes, strict=True)):
                x @ weight.mT
                slope.mT @ x
                if k:
                    slope @ weight

    return epoch


def update(net: Net) -> Loop:
    """The fused Adam of torch on as many weights, and nothing else."""
    weights = [*net.encoder().parameters(), *net.decoder().parameters()]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer = torch.optim.Adam(weights, lr=LEARNING_RATE, fused=True)

    def epoch() -> None:
        for _ in range(net.steps):
            optimizer.step()

    return epoch


def batches(net: Net) -> Loop:
    """The batches cut and divided by 255, and nothing else."""

    def epoch() -> None:
        for _ in net.batches():
            pass

    return epoch


PEERS: dict[str, tuple[str, Callable[[Net], Loop], float]] = {
    "hand-written PyTorch, fused Adam": ("torch", by_hand, 1.0),
    "the same under `torch.compile`": ("torch", lambda net: by_hand(net, compiled=True), 1.0),
    "NumPyro, `SVI.update` under `jit`, a `scan` over the epoch": ("numpyro", numpyro, 1.05),
    "Pyro's `SVI`, batches in memory": ("pyro", lambda net: pyro_svi(net, loader=False), 0.45),
    "Pyro's VAE example (DataLoader)": ("pyro", lambda net: pyro_svi(net, loader=True), 0.2),
    "pixyz": ("pixyz", pixyz, 0.5),
    "pythae's trainer": ("pythae", pythae, 0.5),
}
"""By name: the module it needs, what makes its loop, and the goal of ours / its time."""
PARTS = {"the matrix products alone": products, "a fused Adam alone": update, "the batches alone": batches}
OURS = {"compiled": "on", "graph": "graph", "as it is": "off"}


def net_of(name: str, steps: int) -> Net:
    hidden, latent, batch = {"article": ((512,), 20, 128), "small": ((200, 200), 50, 20)}[name]
    generator = torch.Generator().manual_seed(0)
    return Net(hidden, latent, batch, torch.randint(256, (steps * batch, 784), generator=generator, dtype=torch.uint8))


def table(net: Net, rounds: int) -> str:
    missing = [name for name, (needed, _, _) in PEERS.items() if importlib.util.find_spec(needed) is None]
    loops = {f"ours, {name}": ours(net, choice) for name, choice in OURS.items()}
    loops |= {name: make(net) for name, (_, make, _) in PEERS.items() if name not in missing}
    times = in_turn(loops | {name: make(net) for name, make in PARTS.items()}, rounds)
    lines = [f"| ours / | {' | '.join(OURS)} | goal | wall clock, compiled |", "| --- " * (len(OURS) + 3) + "|"]
    for name, (_, _, goal) in PEERS.items():
        if name in missing:
            lines.append(f"| {name} | not installed |" + " |" * (len(OURS) + 1))
            continue
        wall, cpu = zip(*times[name], strict=True)
        mine = [list(zip(*times[f"ours, {way}"], strict=True)) for way in OURS]
        cells = [ratio(each[1], cpu) for each in mine]
        lines.append(f"| {name} | {' | '.join(cells)} | <= {goal:.2f} | {ratio(mine[0][0], wall)} |")
    steps = {name: min(cpu for _, cpu in each) / net.steps * 1e3 for name, each in times.items()}
    least = "; ".join(f"{name}: {value:.2f}" for name, value in steps.items() if name not in PARTS)
    floor = steps["the matrix products alone"]
    least += "".join(
        f"; {floor / steps[name]:.2f} is the least ratio to {name} that those leave open"
        for name, (_, _, goal) in PEERS.items()
        if name in steps and floor / steps[name] > goal
    )
    whole = steps["ours, compiled"]
    rows = {name: steps[name] for name in PARTS} | {"elementwise operations, noise and calls": 0.0, "all": whole}
    rows["elementwise operations, noise and calls"] = whole - sum(steps[name] for name in PARTS)
    parts = ["| of ours, compiled | ms |", "| --- | --- |", *(f"| {name} | {ms:.2f} |" for name, ms in rows.items())]
    return "\n".join([*lines, "", f"Least CPU milliseconds a step: {least}.", "", *parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=50, help="steps in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--net", default="article,small", help="which nets, separated by a comma")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.threads == 1:
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    logging.getLogger("pythae").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    parts = []
    for name in given.net.split(","):
        net = net_of(name, given.steps)
        sizes = "-".join(map(str, (784, *net.hidden, net.latent)))
        title = (
            f"{sizes}, batch {net.batch}: medians of {given.rounds} rounds of {net.steps} steps, least and greatest."
        )
        parts.append(f"{title} {machine()}.\n\n{table(net, given.rounds)}")
    write_section("peers", "\n\n".join(parts))


if __name__ == "__main__":
    main()
