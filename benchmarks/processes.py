"""Time of a training step on one process and on several, a thread each, of the same data and the same global batch.

    python benchmarks/processes.py [--processes 1,2] [--rounds 3] [--steps 5]

The net is 784-2048-2048-50 at batch 512. Each round starts every number of processes by torchrun, in turn, and takes
the fastest of `--steps` steps. Wall-clock times, as processes run side by side: they need as many free cores.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.peers import layers
from benchmarks.timing import machine, ratio, write_section
from guides.vae import VAEGuide
from pyro_models.data import Batches, Split, batch_of
from pyro_models.distributions import grey_bernoulli
from pyro_models.objectives import mean_field
from pyro_models.training.loop import fit, parameters
from pyro_models.training.processes import average_gradients, distributed_session
from pyro_models.vae import VAE

HIDDEN, LATENT, BATCH = (2048, 2048), 50, 512


def work(steps: int) -> None:
    """Train on this process's share, and print seconds: of a step, and of averaging the gradients alone."""
    torch.manual_seed(0)
    data = Split(torch.randint(256, (BATCH, 784), dtype=torch.uint8))
    with distributed_session("cpu") as processes:
        decoder = layers(LATENT, *reversed(HIDDEN), 784)
        pair = (
            VAE(decoder, lambda logits: grey_bernoulli(logits, 1), LATENT),
            VAEGuide(layers(784, *HIDDEN, 2 * LATENT)),
        )
        share = {"rank": processes.rank, "processes": processes.count}
        batches = Batches(data, size=BATCH, to_batch=lambda rows: batch_of(rows, "grey"), **share)
        optimizer = torch.optim.Adam(parameters(*pair), lr=1e-3, fused=True)
        each = [e.seconds for e in fit(*pair, batches, mean_field, optimizer, epochs=steps + 1, compile="off")]
        start = time.perf_counter()
        average_gradients(optimizer)
        averaging = time.perf_counter() - start if processes.count > 1 else 0.0
        if processes.rank == 0:
            print(json.dumps([min(each[1:]), averaging]))


def started(processes: int, steps: int) -> tuple[float, float]:
    """Return what `work` prints where torchrun starts so many processes."""
    words = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), __file__, "--worker"]
    command = [sys.executable, *words, "--steps", str(steps)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    step, averaging = json.loads(printed.splitlines()[-1])
    return step, averaging


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2", help="how many at a time, separated by commas; 1 first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--worker", action="store_true", help="be one of the processes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.worker:
        return work(given.steps)
    counts = [int(count) for count in given.processes.split(",")]
    rounds = [{count: started(count, given.steps) for count in counts} for _ in range(given.rounds)]
    lines = ["| processes | ms a step | of which averaging gradients | times as fast as one |", "| --- " * 4 + "|"]
    for count in counts:
        steps, averaging = zip(*(each[count] for each in rounds), strict=True)
        faster = ratio([each[counts[0]][0] for each in rounds], steps)
        lines.append(f"| {count} | {1e3 * median(steps):.0f} | {1e3 * median(averaging):.0f} | {faster} |")
    sizes = "-".join(map(str, (784, *HIDDEN, LATENT)))
    weights = sum(weight.numel() for weight in parameters(layers(784, *HIDDEN, 2 * LATENT))) * 2e-6
    title = (
        f"{sizes} at a batch of {BATCH} over all processes, {weights:.0f} million weights, a thread each. {machine()}."
    )
    write_section("processes", "\n".join([title, "", *lines]))
    return None


if __name__ == "__main__":
    main()
