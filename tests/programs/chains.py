"""Hidden Markov models in eight ways of writing them, and animals that are caught again."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal
from pyro.ops.indexing import Vindex
from torch import Tensor

from tests.programs.pair import PROGRAMS, Pair, program

SEQUENCES = torch.tensor(
    [[[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]],
    dtype=torch.float64,
)  # [sequences, time, tones]
LENGTHS = torch.tensor([3, 2, 3])
STATES, TONES = 2, 2
ENUMERATE = {"enumerate": "parallel"}


def transitions() -> tuple[Tensor, Tensor]:
    probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(STATES) + 0.1).to_event(1))
    probs_y = pyro.sample("probs_y", dist.Beta(0.9, 0.9).expand([STATES, TONES]).to_event(2))
    return probs_x, probs_y


def sequential(sequences: Tensor, lengths: Tensor) -> None:
    """One sequence after the other: a sequential plate."""
    probs_x, probs_y = transitions()
    tones = pyro.plate("tones", TONES, dim=-1)
    for i in pyro.plate("sequences", len(sequences)):
        x: Tensor | int = 0
        for t in pyro.markov(range(int(lengths[i]))):
            x = pyro.sample(f"x_{i}_{t}", dist.Categorical(probs_x[x]), infer=ENUMERATE)
            with tones:
                pyro.sample(f"y_{i}_{t}", dist.Bernoulli(probs_y[x.squeeze(-1)]), obs=sequences[i, t])


def masked(sequences: Tensor, lengths: Tensor) -> None:
    """All sequences at once, with masks behind their ends."""
    probs_x, probs_y = transitions()
    tones = pyro.plate("tones", TONES, dim=-1)
    with pyro.plate("sequences", len(sequences), dim=-2):
        x: Tensor | int = 0
        for t in pyro.markov(range(int(lengths.max()))):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer=ENUMERATE)
                with tones:
                    pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[x.squeeze(-1)]), obs=sequences[:, t])


def autoregressive(sequences: Tensor, lengths: Tensor) -> None:
    """Each observation depends on the last one, too."""
    probs_x, _ = transitions()
    probs_y = pyro.sample("probs_yy", dist.Beta(0.9, 0.9).expand([STATES, 2, TONES]).to_event(3))
    tones = pyro.plate("tones", TONES, dim=-1)
    with pyro.plate("sequences", len(sequences), dim=-2):
        x: Tensor | int = 0
        y: Tensor | int = torch.zeros(TONES)
        for t in pyro.markov(range(int(lengths.max()))):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer=ENUMERATE)
                with tones as tone:
                    probs = Vindex(probs_y)[x, y.long(), tone] if isinstance(y, Tensor) else probs_y
                    y = pyro.sample(f"y_{t}", dist.Bernoulli(probs), obs=sequences[:, t])


def factorial(sequences: Tensor, lengths: Tensor) -> None:
    """Two chains of states that do not see each other."""
    probs_w = pyro.sample("probs_w", dist.Dirichlet(0.9 * torch.eye(STATES) + 0.1).to_event(1))
    probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(STATES) + 0.1).to_event(1))
    probs_y = pyro.sample("probs_y", dist.Beta(0.9, 0.9).expand([STATES, STATES, TONES]).to_event(3))
    tones = pyro.plate("tones", TONES, dim=-1)
    with pyro.plate("sequences", len(sequences), dim=-2):
        w: Tensor | int = 0
        x: Tensor | int = 0
        for t in pyro.markov(range(int(lengths.max()))):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                w = pyro.sample(f"w_{t}", dist.Categorical(probs_w[w]), infer=ENUMERATE)
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer=ENUMERATE)
                with tones as tone:
                    pyro.sample(f"y_{t}", dist.Bernoulli(Vindex(probs_y)[w, x, tone]), obs=sequences[:, t])


def crossed(sequences: Tensor, lengths: Tensor) -> None:
    """Two chains, of which one steers the other: a table of transitions with three dimensions."""
    probs_w = pyro.sample("probs_w", dist.Dirichlet(0.9 * torch.eye(STATES) + 0.1).to_event(1))
    probs_x = pyro.sample("probs_x", dist.Dirichlet(torch.ones(STATES, STATES, STATES)).to_event(2))
    probs_y = pyro.sample("probs_y", dist.Beta(0.9, 0.9).expand([STATES, STATES, TONES]).to_event(3))
    tones = pyro.plate("tones", TONES, dim=-1)
    with pyro.plate("sequences", len(sequences), dim=-2):
        w = x = torch.tensor(0)
        for t in pyro.markov(range(int(lengths.max()))):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                w = pyro.sample(f"w_{t}", dist.Categorical(probs_w[w]), infer=ENUMERATE)
                x = pyro.sample(f"x_{t}", dist.Categorical(Vindex(probs_x)[w, x]), infer=ENUMERATE)
                with tones as tone:
                    pyro.sample(f"y_{t}", dist.Bernoulli(Vindex(probs_y)[w, x, tone]), obs=sequences[:, t])


class Emission(torch.nn.Module):
    """Logits of the tones from a state and the tones before."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.tone = torch.nn.Embedding(STATES, TONES), torch.nn.Linear(TONES, TONES)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.state(x.squeeze(-1)) + self.tone(y)


EMISSIONS: list[Emission] = []


def neural(sequences: Tensor, lengths: Tensor) -> None:
    """A network emits the tones."""
    network = EMISSIONS[-1]
    pyro.module("emission", network)
    probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(STATES) + 0.1).to_event(1))
    tones = pyro.plate("tones", TONES, dim=-1)
    with pyro.plate("sequences", len(sequences), dim=-2):
        x: Tensor | int = 0
        y = torch.zeros(len(sequences), TONES)
        for t in pyro.markov(range(int(lengths.max()))):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer=ENUMERATE)
                with tones:
                    y = pyro.sample(f"y_{t}", dist.Bernoulli(logits=network(x, y)), obs=sequences[:, t])


def second_order(sequences: Tensor, lengths: Tensor) -> None:
    """A state depends on the last two: `pyro.markov(history=2)`."""
    probs_x = pyro.sample("probs_x", dist.Dirichlet(torch.ones(STATES, STATES, STATES)).to_event(2))
    probs_y = pyro.sample("probs_y", dist.Beta(0.9, 0.9).expand([STATES, TONES]).to_event(2))
    tones = pyro.plate("tones", TONES, dim=-1)
    with pyro.plate("sequences", len(sequences), dim=-2):
        before = now = torch.tensor(0)
        for t in pyro.markov(range(int(lengths.max())), history=2):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                new = pyro.sample(f"x_{t}", dist.Categorical(Vindex(probs_x)[before, now]), infer=ENUMERATE)
                before, now = now, new
                with tones as tone:
                    pyro.sample(f"y_{t}", dist.Bernoulli(Vindex(probs_y)[now, tone]), obs=sequences[:, t])


def vectorised(sequences: Tensor, lengths: Tensor) -> None:
    """The whole sequence is one draw of `DiscreteHMM`."""
    probs_x, probs_y = transitions()
    with pyro.plate("sequences", len(sequences), dim=-1):
        initial = torch.full((STATES,), -float("inf"))
        initial[0] = 0.0
        tones = dist.Bernoulli(probs_y).to_event(1)
        inside = torch.arange(sequences.shape[1]) < lengths.unsqueeze(-1)
        hmm = dist.DiscreteHMM(initial, probs_x.log(), tones.mask(inside.unsqueeze(-1)))
        pyro.sample("y", hmm, obs=sequences)


CHAINS = (sequential, masked, autoregressive, factorial, crossed, neural, second_order, vectorised)


def _chain(number: int) -> Pair:
    pyro.set_rng_seed(0)
    model = CHAINS[number]
    EMISSIONS[:] = [Emission()]
    guide = AutoDelta(poutine.block(model, expose_fn=lambda msg: msg["name"].startswith("probs_")))
    tags = {"global", "auto", *({"model-enum"} if number != 7 else ())}
    data = {"sequences": SEQUENCES, "lengths": LENGTHS}
    return Pair(model, guide, kwargs=data, nesting=1 if number in (0, 7) else 2, tags=frozenset(tags))


for _number in range(len(CHAINS)):
    PROGRAMS[f"chain_{_number}"] = lambda number=_number: _chain(number)


@program
def recapture() -> Pair:
    """Which animals live on, of which only captures are seen: states summed out, masks before the first capture."""
    captured = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])

    def model(captured: Tensor) -> None:
        survival = pyro.sample("survival", dist.Uniform(0.0, 1.0))
        detection = pyro.sample("detection", dist.Uniform(0.0, 1.0))
        with pyro.plate("animals", len(captured), dim=-1):
            alive = torch.ones(len(captured))
            known = torch.zeros(len(captured), dtype=torch.bool)
            for t in pyro.markov(range(captured.shape[1])):
                with poutine.mask(mask=known):
                    chance = torch.where(known, survival * alive, torch.ones(()))
                    alive = pyro.sample(f"alive_{t}", dist.Bernoulli(chance), infer=ENUMERATE)
                    pyro.sample(f"seen_{t}", dist.Bernoulli(detection * alive), obs=captured[:, t])
                known = known | captured[:, t].bool()

    guide = AutoDiagonalNormal(poutine.block(model, expose=["survival", "detection"]), init_scale=0.3)
    return Pair(model, guide, kwargs={"captured": captured}, nesting=1, tags=frozenset({"global", "model-enum"}))
