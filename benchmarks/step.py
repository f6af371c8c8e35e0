"""Speed of the article's VAE, as ratios measured in one run.

    python benchmarks/step.py [--rounds 7] [--data-dir DIR]

Three loops over the same net (784-512-2, batch 128) take turns: this project's `fit`; a hand-written PyTorch
loop with the images in memory and the fused Adam; and the article's own, with a DataLoader, ToTensor and a
transfer of each batch. The ratios are medians over the rounds. Memory is the process's after each round.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

import pyro_models as ps
from pyro_models.base.names import data_dir
from pyro_models.data import Dataset, Split
from pyro_models.recipes import VAERecipe
from pyro_models.training.fit import parameters

STEPS = 100
BATCH = 128


class HandWritten(nn.Module):
    """The article's VAE as one would write it without Pyro."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 4))
        self.decoder = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, 784))

    def loss(self, x: Tensor) -> Tensor:
        loc, log_variance = self.encoder(x).chunk(2, dim=-1)
        z = loc + (0.5 * log_variance).exp() * torch.randn_like(loc)
        reconstruction = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = -0.5 * (1 + log_variance - loc.square() - log_variance.exp()).sum()
        return (reconstruction + kl) / len(x)


def ours(dataset: Dataset) -> Callable[[], None]:
    recipe = VAERecipe(network="article", encoder_dropout=0.0, batch_size=BATCH)
    pair = recipe.pair(dataset)
    optimizer = torch.optim.Adam(parameters(*pair), lr=1e-3, fused=True)
    epochs = ps.fit(*pair, recipe.bound(), optimizer, recipe.batches(dataset), epochs=10_000)
    return lambda: next(epochs) and None


def by_hand(split: Split) -> Callable[[], None]:
    model = HandWritten()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def epoch() -> None:
        order = torch.randperm(len(split))
        for step in range(len(split) // BATCH):
            index = order[step * BATCH : (step + 1) * BATCH]
            loss = model.loss(split.x[index].float().div_(255).flatten(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def articles(folder: Path) -> Callable[[], None]:
    model = HandWritten()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(MNIST(folder, train=True, transform=ToTensor()), batch_size=BATCH, shuffle=True)

    def first_steps() -> None:
        for step, (images, _) in enumerate(loader):
            if step == STEPS:
                break
            loss = model.loss(images.to("cpu").view(-1, 784))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return first_steps


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data-dir", type=Path)
    given = parser.parse_args()
    mnist = ps.load("mnist", data_dir=given.data_dir)
    mnist = replace(mnist, train=mnist.train[: STEPS * BATCH])
    loops = {"ours": ours(mnist), "by hand": by_hand(mnist.train), "article": articles(data_dir(given.data_dir))}
    times: dict[str, list[float]] = {name: [] for name in loops}
    memory = []
    for loop in loops.values():
        loop()
    for _ in range(given.rounds):
        for name, loop in loops.items():
            times[name].append(seconds(loop))
        memory.append(resident_megabytes())

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.rounds} rounds of {STEPS} steps")
    for name, values in times.items():
        low, middle, high = (1e3 * f(values) / STEPS for f in (min, statistics.median, max))
        print(f"{name:>8}: {middle:6.2f} ms a step (min {low:.2f}, max {high:.2f})")
    for name, claim in (("by hand", "at most 1.2"), ("article", "at most 0.33")):
        ratios = [mine / other for mine, other in zip(times["ours"], times[name], strict=True)]
        print(f"ours / {name}: {statistics.median(ratios):.2f} (wanted: {claim})")
    print(f"memory after each round: {', '.join(f'{value:.0f}' for value in memory)} MB")


if __name__ == "__main__":
    main()
