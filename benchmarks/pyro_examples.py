"""What each tool makes of Pyro's own examples and tutorials: works, refused with words, wrong, or a traceback.

    python benchmarks/pyro_examples.py FOLDER [--only lda,hmm] [--tools story,check] [--out FILE] [--draws 60]

FOLDER is a checkout of https://github.com/pyro-ppl/pyro; its programs run as they are, on tiny synthetic data. A value
is wrong where it differs from that of Pyro's own estimator of the same kind, at the same seed or in expectation by more
than 5 standard errors, or from the definition computed by hand; replicates are wrong where they equal the data. Without
--out the table goes to the terminal, and after it each cell that does not work, in words.
"""

import argparse
import inspect
import logging
import re
import sys
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyro
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.pyro_pairs import EXAMPLES, Source
from pyro_models.objectives import ESTIMATORS
from tests.programs.measure import TOOLS, Bench, Outcome, attempt, measures, names_a_site
from tests.programs.pair import Pair

MARKS = ("works", "refused", "unnamed", "WRONG", "TRACEBACK", "slow")
"""How a cell comes out, as the table has it: `unnamed` is refused in words that name no site of the pair."""
Row = dict[str, Outcome]


def by_name(pair: Pair) -> Pair:
    """Return a pair that is called with keyword arguments alone, where its signature allows that."""
    names = inspect.signature(pair.model).parameters
    if not pair.args or any(p.kind in (p.VAR_POSITIONAL, p.POSITIONAL_ONLY) for p in names.values()):
        return pair
    return replace(pair, args=(), kwargs=dict(zip(names, pair.args, strict=False)) | dict(pair.kwargs))


def examine(source: Source, name: str, tools: list[str], draws: int, seconds: int, named: bool) -> Row:
    """Build one pair, and run each measurement of it with a fresh store of parameters."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    bench: list[Bench] = []

    def build() -> str:
        pair = EXAMPLES[name](source)
        bench.append(Bench(by_name(pair) if named else pair, draws))
        return ""

    built = attempt(build, seconds)
    if not bench:
        return {"pair": built}
    row: Row = {"pair": built}
    for tool, measure in measures(bench[0]).items():
        if tool in tools:
            row[tool] = attempt(measure, seconds)
            if row[tool].kind == "refused" and not names_a_site(row[tool].words, bench[0]):
                row[tool] = Outcome("unnamed", row[tool].words)
    return row


def cell(outcomes: list[Outcome]) -> str:
    """Several outcomes as one cell: the worst, and how many work."""
    kinds = Counter(outcome.kind for outcome in outcomes)
    parts = [f"{kinds['works']} of {len(outcomes)}"]
    return ", ".join(parts + [f"{kinds[kind]} {kind}" for kind in MARKS if kind != "works" and kinds[kind]])


def table(rows: dict[str, Row], tools: list[str]) -> str:
    """Return the table in Markdown: program by story, estimators, check, ..., with totals in the last row."""
    others = [tool for tool in TOOLS if tool in tools]
    names = [name for name in ESTIMATORS if name in tools]
    lines = [f"| program | {' | '.join(others)} | estimators |", "| --- " * (len(others) + 2) + "|"]
    for name, row in rows.items():
        if len(row) == 1:
            lines.append(f"| {name} | " + " | ".join(["not built"] * (len(others) + 1)) + " |")
            continue
        cells = [row[tool].kind for tool in others] + [cell([row[each] for each in names])]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    built = [row for row in rows.values() if len(row) > 1]
    totals = []
    for tool in others:
        kinds = Counter(row[tool].kind for row in built)
        totals.append(", ".join(f"{kinds[kind]} {kind}" for kind in MARKS if kinds[kind]))
    some = sum(any(row[each].kind == "works" for each in names) for row in built)
    every = sum(all(row[each].kind == "works" for each in names) for row in built)
    totals.append(f"some on {some}, all on {every}, {cell([row[each] for row in built for each in names])}")
    lines.append(f"| **{len(built)} of {len(rows)} built** | " + " | ".join(totals) + " |")
    return "\n".join(lines)


def words(rows: dict[str, Row]) -> str:
    """Return each cell that does not work, in words, and each that works without a reference."""
    lines = []
    for name, row in rows.items():
        for tool, outcome in row.items():
            if outcome.kind != "works" or outcome.words.startswith("no reference"):
                lines.append(f"- {name}, {tool}: {outcome.kind}: {outcome.words}")
    return "\n".join(lines)


def causes(rows: dict[str, Row]) -> str:
    """Return how often each kind of failure comes, the most frequent first: names and numbers are left out of words."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for name, row in rows.items():
        for tool, outcome in row.items():
            if outcome.kind == "works" and not outcome.words.startswith("no reference"):
                continue
            plain = re.sub(
                r"-?\d+(\.\d+)?(e[+-]?\d+)?", "#", re.sub(r"(?<!\w)'[^']*'|`[^`]*`|\[[^\]]*\]", "_", outcome.words)
            )
            group = "estimators" if tool in ESTIMATORS else tool
            found.setdefault((group, outcome.kind, plain[:110]), []).append(f"{name}, {tool}")
    lines = ["| cells | of | outcome | words | as in |", "| --- " * 5 + "|"]
    for (group, kind, plain), cells in sorted(found.items(), key=lambda item: -len(item[1])):
        lines.append(f"| {len(cells)} | {group} | {kind} | {plain.replace('|', '/')} | {'; '.join(cells[:3])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a checkout of Pyro's repository")
    parser.add_argument("--only", default="", help="names, or how names begin, separated by commas")
    parser.add_argument("--tools", default=",".join([*TOOLS, *ESTIMATORS]), help="which columns, separated by commas")
    parser.add_argument("--out", type=Path, help="a Markdown file to write")
    parser.add_argument("--draws", type=int, default=60, help="of each estimator where values agree in expectation")
    parser.add_argument("--seconds", type=int, default=20, help="limit of each cell, of the processor's time")
    parser.add_argument(
        "--by-name", action="store_true", help="call the pairs with keyword arguments, where they can be"
    )
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    source, tools = Source(arguments.folder), arguments.tools.split(",")
    beginnings = tuple(arguments.only.split(",")) if arguments.only else ("",)
    rows: dict[str, Row] = {}
    for name in EXAMPLES:
        if name.startswith(beginnings):
            start = time.perf_counter()
            rows[name] = examine(source, name, tools, arguments.draws, arguments.seconds, arguments.by_name)
            kinds = Counter(outcome.kind for outcome in rows[name].values())
            print(f"{name}: {dict(kinds)}, {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    text = "\n\n".join([table(rows, tools), causes(rows), words(rows)])
    if arguments.out:
        arguments.out.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
