"""Price of virtual adversarial training, in forward-backward passes of the net, measured in one run.

    python benchmarks/vat.py [--rounds 9] [--batch-size 256]

Three things take turns on the same net and batch: a forward-backward pass; this project's term, its gradient
included; and the term as the article writes it, with the prediction at x computed anew and every backward pass
going to all the weights. The ratios are medians over the rounds. No optimiser takes part, and no label.
"""

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.timing import in_turn, ratio
from pyro_models.data import Dataset, Split
from pyro_models.objectives import discriminative, regularised, vat
from pyro_models.recipes import ClassifierRecipe

RADIUS, XI = 2.5, 0.1


def one_pass(network: nn.Module, x: Tensor) -> None:
    network.zero_grad()
    network(x).logsumexp(-1).mean().backward()


def ours(pair: tuple[nn.Module, nn.Module], x: Tensor) -> None:
    model, guide = pair
    term = {"vat": (1.0, partial(vat, radius=RADIUS, finite_difference=XI))}
    model.zero_grad()
    regularised(discriminative(guide.classify), term, guide.classify)(model, guide, x=x)["loss"].backward()


def article(network: nn.Module, x: Tensor) -> None:
    """Algorithm 1 of Miyato et al. (2018), line by line, not optimised."""

    def unit(v: Tensor) -> Tensor:
        return v / v.flatten(1).norm(dim=1).view(-1, 1, 1, 1)

    def kl(log_q: Tensor, log_p: Tensor) -> Tensor:
        return F.kl_div(log_p, log_q, log_target=True, reduction="batchmean")

    with torch.no_grad():
        log_q = network(x).log_softmax(-1)
    d = unit(torch.randn_like(x)).requires_grad_()
    kl(log_q, network(x + XI * d).log_softmax(-1)).backward()
    r = RADIUS * unit(d.grad)
    network.zero_grad()
    kl(network(x).log_softmax(-1).detach(), network(x + r).log_softmax(-1)).backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=256)
    given = parser.parse_args()
    x = torch.rand(given.batch_size, 1, 28, 28)
    dataset = Dataset("noise", "grey", *3 * [Split(x)])  # for its shape
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {len(x)}, {given.rounds} rounds")
    for name in ("conv", "article", "paper"):
        pair = ClassifierRecipe(network=name, classes=10).pair(dataset)
        network = pair[0].network
        works = {"pass": partial(one_pass, network, x), "ours": partial(ours, pair, x)}
        works |= {"article": partial(article, network, x)}
        times = {key: [wall for wall, _ in each] for key, each in in_turn(works, given.rounds).items()}
        middle = {key: 1e3 * statistics.median(values) for key, values in times.items()}
        print(
            f"--network {name}: a pass {middle['pass']:.1f} ms, the term {middle['ours']:.1f} ms, as the article "
            f"writes it {middle['article']:.1f} ms; the term is {ratio(times['ours'], times['pass'])} passes "
            f"(wanted: at most 3), and {ratio(times['ours'], times['article'])} of the article's"
        )


if __name__ == "__main__":
    main()
