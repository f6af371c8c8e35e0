"""The steps of a run: as they are, as graphs, or compiled; what pays is tried on the run's own first steps."""

import logging
import math
import random
import time
from collections.abc import Callable
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_models.base.errors import first_line
from pyro_models.objectives import Objective, Program, Scheduled, gpus_of
from pyro_models.training.capture import (
    Graph,
    Uncapturable,
    compiled,
    leaves,
    moving,
    same,
    state_of,
    tensors_of,
    trace,
)
from pyro_models.training.sources import Call

Compile = Literal["auto", "on", "graph", "off"]
"""`on` compiles every step; `graph` makes each a graph, which changes no bit; `off` leaves them as they are; `auto`
takes the fastest of these where the first steps show that it pays before the run ends."""
Plain = Callable[..., dict[str, Tensor]]
"""A step as it is: from an objective and the arguments of the pair to terms; it leaves gradients behind."""

ROUNDING = 1e-5  # of a compiled graph, relative to the loss; a hundred times as much of a gradient
GRAPHS = 8  # of a run at a time, for batches of different shapes and objectives of different forms
TRIAL = 10  # steps
PAYS = 0.95  # of the time of a step, at most
WORTHWHILE = {"plain": 60.0, "graph": 1200.0}  # seconds of work left: a graph is made in 1, and compiled in 60

log = logging.getLogger("pyro_models")


def objective_at(objective: Objective | Scheduled, progress: float) -> Objective:
    """Return the objective of a step after a fraction of the run."""
    return objective.at(progress) if isinstance(objective, Scheduled) else objective


class Steps:
    """The steps of a run: as graphs, where these give the same and pay, else as they are.

    Args:
        model, guide: the pair.
        objective: the loss, or a schedule of losses.
        optimizer: its parameters are what is trained.
        choice: how to run them.
        plain: a step as it is: from an objective and the arguments of the pair to terms, with gradients left behind.
        update: what comes after the gradients, unless a graph does that too.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        objective: Objective | Scheduled,
        optimizer: torch.optim.Optimizer,
        choice: Compile,
        plain: Plain,
        update: Callable[[], None],
    ):
        self.pair = model, guide
        self.objective = objective
        self.optimizer = optimizer
        self.plain = plain
        self.update = update
        self.stepped = False
        self.way = {"on": "compiled", "graph": "graph"}.get(choice, "plain")
        self.trial: list[float] | None = [] if choice == "auto" else None
        self.fastest = "graph" if choice == "on" else "plain"  # of those tried; `on` tries none
        self.seconds = math.inf  # of a step in that way
        self.gpus = gpus_of(weight for group in optimizer.param_groups for weight in group["params"])
        self.graphs: list[tuple[list[Any], list[Any], set[int], Graph]] = []
        self.state: list[Any] = []

    def begin_epoch(self) -> None:
        """Forget the graphs, if what the pair holds has changed since they were made."""
        if self.graphs and not same(self.state, self._state()):
            self.graphs = []

    def _state(self) -> list[Any]:
        objective = [] if isinstance(self.objective, Scheduled) else leaves(self.objective)
        groups = [{name: each for name, each in group.items() if name != "lr"} for group in self.optimizer.param_groups]
        return state_of(*self.pair, objective, groups)

    def __call__(self, call: Call, progress: float, following: float) -> dict[str, Tensor]:
        """Run a step, and return its terms.

        Args:
            call: positional and keyword arguments of the pair.
            progress, following: the fractions of the run that are over at this step, and at the next.
        """
        start, self.stepped = time.perf_counter(), False
        if self.way == "plain":
            terms = self.plain(objective_at(self.objective, progress), *call)
        else:
            terms = self._by_graph(call, progress, following)
        if not self.stepped:
            self.update()
        if self.trial is not None:
            for gpu in self.gpus:
                torch.cuda.synchronize(gpu)  # what a step has asked of a GPU is part of its time
            self.trial.append(time.perf_counter() - start)
            if len(self.trial) == TRIAL:
                self._consider(median(self.trial), left=(1.0 - progress) / (following - progress))
        return terms

    def _consider(self, seconds: float, left: float) -> None:
        """After a trial of the present way of running a step, try the next, or stay with the fastest."""
        self.trial, words = [], f"{1e3 * seconds:.3g} ms in place of {1e3 * self.seconds:.3g}"
        if seconds <= PAYS * self.seconds:
            if self.way != "plain":
                log.warning("steps run as a graph%s: %s", " and compiled" if self.way == "compiled" else "", words)
            self.fastest, self.seconds = self.way, seconds
        if self.way == "compiled" or self.seconds * left < WORTHWHILE[self.way]:
            if self.fastest != self.way:
                self._fall_back(f"a step takes {words}")
            self.trial = None
        else:
            self.way, self.graphs = ("graph" if self.way == "plain" else "compiled"), []

    def _fall_back(self, reason: str) -> None:
        log.warning("steps are not %s: %s", "compiled" if self.way == "compiled" else "made a graph", reason)
        self.way, self.graphs, self.trial = (self.fastest if self.way == "compiled" else "plain"), [], None

    def _by_graph(self, call: Call, progress: float, following: float) -> dict[str, Tensor]:
        form, objective = list(map(_form, leaves(call))), objective_at(self.objective, progress)
        held = leaves(objective) if isinstance(self.objective, Scheduled) else []
        for known_form, fixed, moves, graph in self.graphs:
            if same(form, known_form) and same(_without(held, moves), fixed):
                self.stepped = graph.stepped
                return graph(moving(objective, call, moves))
        moves = self._moves(held, (following, 2 * progress - following)) if held else set()
        try:
            if len(self.graphs) == GRAPHS:
                raise Uncapturable(f"the batches, or the objective, take more than {GRAPHS} forms")
            graph, terms = self._make(objective, call, moves)
        except Uncapturable as error:
            self._fall_back(str(error))
            return self.plain(objective, *call)
        self.graphs.append((form, _without(held, moves), moves, graph))
        self.stepped = graph.stepped
        return terms

    def _moves(self, held: list[Any], moments: tuple[float, float]) -> set[int]:
        """Which numbers of an objective differ at the step after it, or else before it, where it has the same form."""
        for moment in moments:
            other = leaves(objective_at(self.objective, max(0.0, moment)))
            differ = {k for k, (a, b) in enumerate(zip(held, other, strict=False)) if not same([a], [b])}
            if len(held) == len(other) and all(type(held[k]) is type(other[k]) is float for k in differ):
                return differ
        return set()

    def _make(self, objective: Objective, call: Call, moves: set[int]) -> tuple[Graph, dict[str, Tensor]]:
        """Make a graph, and return it with the terms of its first run, which is held against the step as it is."""
        programs = (*self.pair, objective)
        undo: Callable[[], Any] = _remember(*programs)
        take_back: Callable[[], Any] = list
        try:
            self.plain(objective, *call)  # makes what only a first run makes
            undo()
            state, others = self._state(), _other_random_states()
            expected = self.plain(objective, *call)
            if not same(state, self._state()):
                raise Uncapturable("what the pair holds beside its parameters changes from step to step")
            if others != _other_random_states():
                raise Uncapturable("it draws random numbers by `random` or NumPy")
            trained = [each for group in self.optimizer.param_groups for each in group["params"] if each.requires_grad]
            slopes = [each.grad for each in trained]
            after = [*_random_states(*programs), *(each.clone() for each in _changing(*programs))]
            undo()
            graph = trace(*self.pair, objective, call, moves, trained)
            if self.way == "compiled":
                graph = compiled(graph, self.optimizer)
            if graph.stepped:
                take_back = self._try_update()
            try:
                terms = graph(moving(objective, call, moves))
            except Exception as error:  # Inductor compiles in the first run, for which there may be no C++ compiler
                raise Uncapturable(first_line(error)) from error
            ours = [*_random_states(*programs), *_changing(*programs)]
            loss = float(expected["loss"].detach().abs())
            steepest = max((float(slope.abs().max()) for slope in slopes if slope is not None), default=0.0)
            if not (
                list(expected) == list(terms)
                and all(_close(terms[name], expected[name], ROUNDING * loss) for name in expected)
                and all(
                    _close(a.grad, b, ROUNDING * steepest, 100 * ROUNDING) for a, b in zip(trained, slopes, strict=True)
                )
                and all(_close(a, b) for a, b in zip(ours, after, strict=True))
            ):
                raise Uncapturable("its terms, gradients or noise would be others")
            if graph.stepped and not self._is_same_update(take_back):
                raise Uncapturable("its optimiser's steps would be others")
        except Uncapturable:
            undo()
            take_back()
            raise
        self.state = state
        return graph, terms

    def _updated(self) -> list[Tensor]:
        """What the optimiser's step moves: weights, and what it keeps of each."""
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        return [
            each for weight in weights for each in (weight.detach(), *self.optimizer.state.get(weight, {}).values())
        ]

    def _try_update(self) -> Callable[[], Any]:
        """Let the optimiser make what it keeps, by a step, and return what takes this step back, and later ones."""
        before = {each.data_ptr(): each.clone() for each in self._updated()}
        self.optimizer.step()
        moved = self._updated()

        def take_back() -> None:
            for each in moved:
                each.copy_(before.get(each.data_ptr(), torch.zeros_like(each)))

        take_back()
        return take_back

    def _is_same_update(self, take_back: Callable[[], Any]) -> bool:
        """Return whether the step that a graph has made is the optimiser's own, by the same gradients."""
        ours = [each.clone() for each in self._updated()]
        take_back()
        self.optimizer.step()
        size = max(float(group["lr"]) for group in self.optimizer.param_groups)
        is_same = all(_close(a, b, ROUNDING * size) for a, b in zip(ours, self._updated(), strict=True))
        for each, value in zip(self._updated(), ours, strict=True):
            each.copy_(value)  # which are rounded as in the steps to come
        return is_same


def _form(value: Any) -> Any:
    """What a graph is made for: of a tensor all but its numbers."""
    if not isinstance(value, Tensor):
        return value
    return f"{value.dtype} {value.device} {tuple(value.shape)} {value.stride()} {value.requires_grad}"


def _without(values: list[Any], left_out: set[int]) -> list[Any]:
    return [value for k, value in enumerate(values) if k not in left_out]


def _other_random_states() -> Any:
    state: Any = np.random.get_state()
    return random.getstate(), state[1].tobytes(), state[2]


def _changing(*programs: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_of(*programs) if not tensor.requires_grad]


def _random_states(*programs: Any) -> list[Tensor]:
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, gpus_of(tensors_of(*programs)))]


def _remember(*programs: Any) -> Callable[[], None]:
    """Return what takes buffers and the random state back to what they are now."""
    noise, *noise_of = _random_states(*programs)
    gpus, kept = gpus_of(tensors_of(*programs)), [(tensor, tensor.clone()) for tensor in _changing(*programs)]

    def undo() -> None:
        torch.set_rng_state(noise)
        for gpu, state in zip(gpus, noise_of, strict=True):
            torch.cuda.set_rng_state(state, gpu)
        for tensor, value in kept:
            tensor.copy_(value)

    return undo


def _close(ours: Tensor | None, theirs: Tensor | None, absolute: float = 0.0, relative: float = ROUNDING) -> bool:
    """Whether two tensors differ by no more than `absolute`, and `relative` to the largest entry, together."""
    if ours is None or theirs is None:
        return ours is theirs
    if ours.shape != theirs.shape or torch.equal(ours, theirs):
        return ours.shape == theirs.shape
    if not ours.is_floating_point():
        return False
    return bool((ours - theirs).abs().max() <= absolute + relative * theirs.abs().max())
