"""How the time of a training step grows with the batch, the width, the particles and the data, on one thread.

    python benchmarks/scaling.py [--rounds 3] [--steps 5]

The net is 784-512-20 at batch 128 but for what varies. Times are CPU seconds; the exponent is of a line through the
logarithms of the two largest values, where fixed costs have faded. Data are cut from a file on disk (`numpy.memmap`).
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

import pyro_models as ps
from benchmarks.peers import layers
from benchmarks.timing import in_turn, machine, write_section
from guides.vae import VAEGuide
from pyro_models.distributions import NormalLikelihood, bernoulli
from pyro_models.objectives import iwae, mean_field
from pyro_models.training.sources import Rows
from pyro_models.vae import VAE

LATENT = 20


def steps_of(count: int, *, batch: int = 128, width: int = 512, particles: int = 1) -> Callable[[], None]:
    pair = (
        VAE(layers(LATENT, width, 784), lambda logits: bernoulli(logits, 1), LATENT),
        VAEGuide(layers(784, width, 2 * LATENT)),
    )
    x = torch.randint(2, (batch, 784)).float()
    objective = mean_field if particles == 1 else lambda *pair, **batch: iwae(*pair, particles=particles, **batch)
    epochs = ps.fit(*pair, [{"x": x}] * count, objective, epochs=10**6, compile="off")
    return lambda: next(epochs) and None


def row(name: str, values: list[int], make: Callable[[int], Callable[[], None]], count: int, rounds: int) -> str:
    """One line of the table: milliseconds a step at each value, and the exponent at the end."""
    times = in_turn({str(value): make(value) for value in values}, rounds)
    each = [min(cpu for _, cpu in times[str(value)]) / count * 1e3 for value in values]
    exponent = math.log(each[-1] / each[-2]) / math.log(values[-1] / values[-2])
    cells = ", ".join(f"{value:,}: {ms:.1f}" for value, ms in zip(values, each, strict=True))
    return f"| {name} | {cells} | {exponent:.2f} |"


def over_rows(length: int, count: int, folder: Path) -> Callable[[], None]:
    """Steps over some rows of a table that stays on disk: a linear VAE of 16 columns, batch 1,000."""
    table = np.lib.format.open_memmap(folder / f"{length}.npy", mode="w+", dtype=np.float32, shape=(length, 16))
    pair = VAE(nn.Linear(4, 16), NormalLikelihood(1.0, 1), 4), VAEGuide(nn.Linear(16, 8))
    batches = Rows((), {"x": table}, length, 1000, seed=0)
    order = torch.randperm(length)
    epochs = ps.fit(*pair, Cut(batches, order, count), mean_field, epochs=10**6, compile="off")
    return lambda: next(epochs) and None


@dataclass
class Cut:
    """The first batches of an order of rows."""

    rows: Rows
    order: Tensor
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for step in range(self.count):
            size = min(self.rows.size, len(self.order))
            yield self.rows.rows(self.order[torch.arange(step * size, (step + 1) * size) % len(self.order)])[1]


def anonymous_megabytes() -> float:
    """The memory of this process that is of no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="in a round")
    given = parser.parse_args()
    torch.set_num_threads(1)
    count, rounds = given.steps, given.rounds
    lines = ["| of | CPU milliseconds a step at each value | exponent |", "| --- | --- | --- |"]
    lines.append(row("batch", [32, 128, 512, 2048, 4096], lambda n: steps_of(count, batch=n), count, rounds))
    lines.append(row("width", [128, 512, 2048, 4096], lambda n: steps_of(count, width=n), count, rounds))
    lines.append(
        row(
            "particles (iwae, batch 4)",
            [1, 10, 100, 1000],
            lambda n: steps_of(count, batch=4, particles=n),
            count,
            rounds,
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        lengths = [1000, 100_000, 10_000_000]
        lines.append(row("rows of a table on disk", lengths, lambda n: over_rows(n, 20, Path(folder)), 20, rounds))
        before = anonymous_megabytes()
        loop = over_rows(lengths[-1], 20, Path(folder))
        loop()
        grown = anonymous_megabytes() - before
    text = (
        f"Ten million rows of 16 columns, 640 MB on disk, take {grown:.0f} MB of memory: 8 bytes a row for their order."
    )
    write_section(
        "scaling", "\n".join([f"Of 784-512-20 at batch 128 but for what varies. {machine()}.", "", *lines, "", text])
    )


if __name__ == "__main__":
    main()
