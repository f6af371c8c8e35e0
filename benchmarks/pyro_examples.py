"""What each tool makes of Pyro's own examples and tutorials: works, refused with words, wrong, or a traceback.

    python benchmarks/pyro_examples.py FOLDER [--only lda,hmm] [--tools story,check] [--out FILE] [--draws 60]
    python benchmarks/pyro_examples.py FOLDER --state cells.json --out benchmarks/PYRO_EXAMPLES.md

FOLDER is a checkout of https://github.com/pyro-ppl/pyro; its programs run as they are, on tiny synthetic data. A value
is wrong where it differs from that of Pyro's own estimator of the same kind, at the same seed or in expectation by more
than 5 standard errors, or from the definition computed by hand; replicates are wrong where they equal the data. Cells
that --state holds from the same commit are not measured again, so that a run can go on where another ended; those of
other commits stay in the table, which says from when each column is. Without --out it goes to the terminal, and after
it each cell that does not work, in words.
"""

import argparse
import inspect
import json
import logging
import re
import subprocess
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
Known = dict[str, dict[str, list[str]]]
"""By pair and column: how the cell came out, its words, and the commit."""
NOT_OURS = {
    ("sir_hmc_reparameterized_discrete_model", "story"): "densities of -inf, by which a parent is not recognised",
    ("sir_hmc_continuous_model", "story"): "densities of -inf, by which a parent is not recognised",
    ("cevae", "check"): "the guide observes t and y, and Predictive returns them as replicates",
    **{
        ("cevae", name): "the guide observes t and y, and Pyro's gradient is not that of its own loss"
        for name in ("trace", "mean-field", "graph", "enum")
    },
    ("tutorial_svi_part_iii", "check"): "its plate has no size, and Predictive draws one value for all data",
}
"""Cells whose reference is at fault, and how."""


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
            if row[tool].kind == "WRONG" and (name, tool) in NOT_OURS:
                row[tool] = Outcome("works", f"no reference: {NOT_OURS[name, tool]}")
    return row


def commit() -> str:
    """Return the commit that is measured, with a plus where files differ from it."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def cell(outcomes: list[Outcome]) -> str:
    """Several outcomes as one cell: the worst, and how many work."""
    kinds = Counter(outcome.kind for outcome in outcomes)
    parts = [f"{kinds['works']} of {len(outcomes)}"]
    return ", ".join(parts + [f"{kinds[kind]} {kind}" for kind in MARKS if kind != "works" and kinds[kind]])


def table(rows: dict[str, Row]) -> str:
    """Return the table in Markdown: program by story, estimators, check, ..., with totals in the last row."""
    seen = {tool for row in rows.values() for tool in row}
    others, names = [tool for tool in TOOLS if tool in seen], [name for name in ESTIMATORS if name in seen]
    lines = [f"| program | {' | '.join(others)} | estimators |", "| --- " * (len(others) + 2) + "|"]
    for name, row in rows.items():
        cells = [row[tool].kind if tool in row else "" for tool in others]
        cells.append(cell([row[each] for each in names if each in row]))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    totals = []
    for tool in others:
        kinds = Counter(row[tool].kind for row in rows.values() if tool in row)
        totals.append(", ".join(f"{kinds[kind]} {kind}" for kind in MARKS if kinds[kind]))
    works = [[row[each].kind == "works" for each in names if each in row] for row in rows.values()]
    every = cell([row[each] for row in rows.values() for each in names if each in row])
    totals.append(f"some on {sum(map(any, works))}, all on {sum(each != [] and all(each) for each in works)}, {every}")
    return "\n".join([*lines, f"| **{len(rows)}** | " + " | ".join(totals) + " |"])


def words(rows: dict[str, Row]) -> str:
    """Return each cell that does not work, in words."""
    lines = []
    for name, row in rows.items():
        for tool, outcome in row.items():
            if outcome.kind != "works":
                lines.append(f"- {name}, {tool}: {outcome.kind}: {outcome.words}")
    return "\n".join(lines)


def causes(rows: dict[str, Row]) -> str:
    """Return how often each kind of failure comes, the most frequent first: names and numbers are left out of words."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for name, row in rows.items():
        for tool, outcome in row.items():
            if outcome.kind == "works":
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


def heading(known: Known) -> str:
    """Return what was measured, with which versions, and at which commit each column."""
    commits: dict[str, Counter[str]] = {}
    for cells in known.values():
        for tool, (_, _, at) in cells.items():
            if tool != "pair":
                commits.setdefault("estimators" if tool in ESTIMATORS else tool, Counter())[at] += 1
    columns = [
        f"- {tool}: " + ", ".join(f"{n} cells at {at}" for at, n in each.items()) for tool, each in commits.items()
    ]
    words = (
        "Made by `python benchmarks/pyro_examples.py FOLDER --state cells.json --out benchmarks/PYRO_EXAMPLES.md` with "
        f"Pyro {pyro.__version__} and torch {torch.__version__}. What is refused is so in one line. Of "
        "the eight estimators it says how many work: those of a pair with discrete sites often are `enum` alone."
    )
    return "\n".join(["# Pyro's own examples and tutorials", "", words, "", *columns])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a checkout of Pyro's repository")
    parser.add_argument("--only", default="", help="names, or how names begin, separated by commas")
    parser.add_argument("--tools", default=",".join([*TOOLS, *ESTIMATORS]), help="which columns, separated by commas")
    parser.add_argument("--out", type=Path, help="a Markdown file to write")
    parser.add_argument("--state", type=Path, help="a JSON file that keeps the cells, and from which a run goes on")
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
    source, tools, now = Source(arguments.folder), arguments.tools.split(","), commit()
    known: Known = {}
    if arguments.state and arguments.state.exists():
        known = json.loads(arguments.state.read_text())
    beginnings = tuple(arguments.only.split(",")) if arguments.only else ("",)
    for name in EXAMPLES:
        cells = known.setdefault(name, {})
        missing = [tool for tool in tools if cells.get(tool, ["", "", ""])[2] != now]
        if name.startswith(beginnings) and missing:
            start = time.perf_counter()
            row = examine(source, name, missing, arguments.draws, arguments.seconds, arguments.by_name)
            cells |= {tool: [*outcome, now] for tool, outcome in row.items()}
            kinds = Counter(outcome.kind for outcome in row.values())
            print(f"{name}: {dict(kinds)}, {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
            if arguments.state:
                arguments.state.write_text(json.dumps(known, indent=0))
    rows = {name: {tool: Outcome(*cell[:2]) for tool, cell in cells.items()} for name, cells in known.items() if cells}
    text = "\n\n".join([heading(known), table(rows), causes(rows)])
    if arguments.out:
        arguments.out.write_text(text + "\n")
    else:
        print(text, words(rows), sep="\n\n")


if __name__ == "__main__":
    main()
