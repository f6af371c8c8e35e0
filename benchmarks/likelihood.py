"""Speed of `python -m pyro_models likelihood`, as a ratio to the bare arithmetic measured in one run.

    python benchmarks/likelihood.py [--images 40] [--samples 1000] [--draws N] [--rounds 5] [--data-dir DIR]

The net of the IWAE's paper (784-200-200-50, preset burda, untrained). Two programs take turns: this project's
`evidence`, and a hand-written PyTorch loop over the same chunks. The ratio is the median over the rounds. The time of
10,000 images x 5,000 samples is extrapolated (--images 10000 --samples 5000 --rounds 1 measures it), in wall-clock time
and in CPU time, which on free cores is the wall-clock time multiplied by the threads.
"""

import argparse
import math
import resource
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.timing import in_turn, ratio
from pyro_models.likelihood import evidence
from pyro_models.likelihood.importance import DRAWS
from pyro_models.recipes import VAERecipe

AT_ONCE = 100  # draws of each image, by hand


@torch.no_grad()
def by_hand(encoder: nn.Module, decoder: nn.Module, x: Tensor, samples: int, draws: int) -> Tensor:
    result = []
    for images in x.flatten(1).split(draws // AT_ONCE):
        loc, log_scale = encoder(images).chunk(2, dim=-1)
        scale, total = log_scale.exp(), torch.full((len(images),), -math.inf)
        for _ in range(samples // AT_ONCE):
            noise = torch.randn(AT_ONCE, *loc.shape)
            z = loc + scale * noise
            target = images.expand(AT_ONCE, -1, -1)
            log_x = -F.binary_cross_entropy_with_logits(decoder(z), target, reduction="none").sum(-1)
            log_ratio = 0.5 * (noise.square() - z.square()).sum(-1) + log_scale.sum(-1)
            total = torch.logaddexp(total, (log_x + log_ratio).logsumexp(0))
        result.append(total - math.log(samples))
    return torch.cat(result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=DRAWS, help="draws decoded at a time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data-dir", type=Path)
    given = parser.parse_args()
    if given.samples % AT_ONCE:
        parser.error(f"--samples must be a multiple of {AT_ONCE}, which the loop by hand draws at once")
    torch.manual_seed(0)
    recipe = VAERecipe.preset("burda", pixels="threshold")
    mnist = recipe.load(given.data_dir)
    model, guide = recipe.pair(mnist)
    data = recipe.batch(mnist, mnist.test[: given.images])
    encoder, decoder = guide.encoder[-1], model.decoder[0]  # type: ignore[index]
    programs: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: evidence(model, guide, data, samples=given.samples, draws=given.draws).log_p,
        "by hand": lambda: by_hand(encoder, decoder, data["x"], given.samples, given.draws),
    }
    times = in_turn(programs, given.rounds)
    wall, cpu = ({name: [pair[k] for pair in each] for name, each in times.items()} for k in (0, 1))
    threads, draws = torch.get_num_threads(), given.images * given.samples
    print(
        f"torch {torch.__version__}, {threads} threads, {given.rounds} rounds of {given.images} x {given.samples} draws"
    )
    for name in programs:
        by_wall, by_cpu = (1e6 * statistics.median(each[name]) / draws for each in (wall, cpu))
        print(
            f"{name:>8}: {by_wall:6.2f} us a draw of wall-clock time, {by_cpu:6.2f} us of CPU time; "
            f"10,000 x 5,000 draws: {by_wall * 50 / 60:.1f} minutes, {by_cpu * 50 / 60:.1f} of CPU time"
        )
    for what, each in (("wall-clock time", wall), ("CPU time", cpu)):
        print(f"ours / by hand, {what}: {ratio(each['ours'], each['by hand'])}")
    print(f"memory at most: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
