"""Loops timed in turn, their ratios with a spread, and the section of RESULTS.md that they go to."""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "RESULTS.md"


def in_turn(loops: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Run each loop once unmeasured, then all of them in turn: wall-clock and CPU seconds of each round."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    for loop in loops.values():
        loop()
    for _ in range(rounds):
        for name, loop in loops.items():
            wall, cpu = time.perf_counter(), time.process_time()
            loop()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return times


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median of the ratios of the rounds, and their least and greatest."""
    each = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


def machine() -> str:
    """Return what the figures depend on beside the code."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores ({platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}), load {load}"
    )


def write_section(name: str, text: str) -> None:
    """Print a section of RESULTS.md, and write it there between its two marks."""
    print(text)
    whole = RESULTS.read_text()
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    made = re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{text.strip()}\n{end}", whole, flags=re.DOTALL)
    RESULTS.write_text(made)
