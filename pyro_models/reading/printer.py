"""A program told as a story: how the data come about, how the rest is inferred, and what is optimised.

All of it is found by running the program (see `factors.read`), so that it says what the program does now.
"""

import re
import textwrap
from base64 import b64encode
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor

from pyro_models.base.errors import UserError
from pyro_models.data import Batches
from pyro_models.objectives import RecordScales, Scheduled
from pyro_models.reading import graphs
from pyro_models.reading.factors import Factor, Plate, Program, read

if TYPE_CHECKING:
    from pyro_models.data import Dataset
    from pyro_models.recipes.base import Recipe

GREEK = "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi omega"
SIGNS = {" | ": r" \mid ", "−": "-", "∝": r"\propto", "E_q": r"\mathbb{E}_q", " = ": " &= ", "·": r"\,"}
Run = dict[str, tuple[bool, float]]
"""By the names of a program's sites, whether they are observed and what weighs their log-density."""


@dataclass(frozen=True)
class Story:
    """A model, its guide where there is one, and what is optimised; a notebook shows it formatted.

    Attributes:
        programs: the model and the guide, by title.
        objective: formulas in plain text, of the ELBO or of a recipe's loss.
        note: what else is to be said of the bound.
    """

    programs: dict[str, Program]
    objective: tuple[str, ...]
    note: str = ""

    def __str__(self) -> str:
        return self.text

    @property
    def process(self) -> str:
        """What happens, line by line, with the shapes of batch and event."""
        return "\n\n".join(_told(title, program) for title, program in self.programs.items())

    @property
    def factorisation(self) -> tuple[str, ...]:
        """Each program as a product of its factors, over plates, in plain text."""
        return tuple(_product_of(title[-1], program) for title, program in self.programs.items() if _random(program))

    @property
    def text(self) -> str:
        """The whole story as plain text, 100 columns wide."""
        said = [*self.objective, *([f"({self.note})"] if self.note else [])]
        formulas = {"factorisation": self.factorisation, "\nobjective": said}
        lines = [line for title, some in formulas.items() for line in (title, *(f"  {one}" for one in some))]
        return "\n".join([self.process, "", *(_wrapped(line, 6) for line in lines)])

    @property
    def latex(self) -> str:
        """The factorisation and the objective, for display."""
        lines = [_in_latex(formula) for formula in (*self.factorisation, *self.objective)]
        return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"

    @property
    def mermaid(self) -> str:
        """The graph as a Mermaid flowchart."""
        return graphs.mermaid(self.programs)

    @property
    def dot(self) -> str:
        """The graph for Graphviz."""
        return graphs.dot(self.programs)

    @property
    def svg(self) -> str:
        """The graph as a picture, drawn without any other program."""
        return graphs.svg(self.programs)

    @property
    def html(self) -> str:
        """A fragment of a page, whole in itself: the graph and the text."""
        return f'<div class="story">\n{self.svg}\n<pre>{escape(self.text)}</pre>\n</div>'

    @property
    def markdown(self) -> str:
        """The story with its formulas in LaTeX and its graph in Mermaid, as forges show them."""
        return f"```text\n{self.process}\n```\n\n$$\n{self.latex}\n$$\n\n```mermaid\n{self.mermaid}\n```"

    def _repr_markdown_(self) -> str:
        image = f"data:image/svg+xml;base64,{b64encode(self.svg.encode()).decode()}"
        return f'```text\n{self.process}\n```\n\n$$\n{self.latex}\n$$\n\n<img alt="graph of the story" src="{image}">'

    def graphviz(self) -> Any:
        """Return the graph as a `graphviz.Source`, which notebooks draw and which writes files, by the program `dot`.

        Raises:
            UserError: the package graphviz is not there.
        """
        try:
            import graphviz
        except ImportError:
            raise UserError(
                "the package graphviz is not there: pip install 'pyro-stories[graphviz]', or use svg"
            ) from None
        return graphviz.Source(self.dot)


def story(model: Callable[..., Any], *args: Any, guide: Callable[..., Any] | None = None, **kwargs: Any) -> Story:
    """Tell a model, and its guide beside it, by running them; any Pyro program will do.

    Nothing is left of these runs: random numbers, parameters, gradients and batch norm are as before. What a site
    depends on is found as `factors.read` says.

    Args:
        model: a program.
        args, kwargs: what it and the guide are called with.
        guide: a program that takes the same.

    Raises:
        UserError: the arguments do not do, or a program raises an error.
    """
    told = read(model, args, kwargs)
    programs = {"story p": told} | ({} if guide is None else {"guide q": read(guide, args, kwargs, told)})
    hidden, seen = told.of("latent", "improper"), [*told.of("observed"), *told.of("input")]
    q = _joint("q", programs["guide q"]) if "guide q" in programs else f"q({_given(hidden, seen)})"
    p = _joint("p", told)
    below = f" ≤ log p({_given(told.of('observed'), told.of('input'))})" if told.of("observed") else ""
    elbo = f"ELBO = E_q[log {p} − log {q}]{below}"
    return Story(programs, (elbo,) if hidden else (f"log-likelihood = log {p}",))


def story_of(recipe: "Recipe", dataset: "Dataset") -> Story:
    """Tell a recipe: its pair on a batch of its data, and its objective as it is at the end of a run.

    Once every site weighs 1, the loss is linear in the terms that the objective names. So the weights of the terms are
    solved for, in double precision, from the values on a few batches; those of the sites are read off as it runs.

    Args:
        recipe: a recipe; what it learnt does not matter, so that a run need not be finished.
        dataset: its data.

    Raises:
        ValueError: the loss is no sum of its terms.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(), pyro.get_param_store().scope():
            torch.manual_seed(0)
            return _measured(recipe, dataset)
    finally:
        torch.set_default_dtype(before)


def _measured(recipe: "Recipe", dataset: "Dataset") -> Story:
    pool, labelled = recipe.pools(dataset.train)
    attributes, kinds = (dataset.attributes if recipe.multimodal else ()), (recipe.kinds if labelled else 0)
    cut = partial(Batches, pool, recipe.pixels, labelled=labelled, kinds=kinds, attributes=attributes)
    batch = next(cut(size=recipe.batch_size, steps=1).epoch(0))
    known = {name: batch.pop(name) for name in list(batch) if name.startswith("labelled_")}
    if recipe.explains == "y":
        batch = {name.removeprefix("labelled_"): value for name, value in known.items()}
    model, guide = (half.to(pool.x.device) for half in recipe.pair(dataset.shape, dataset.attributes))
    told = story(model, guide=guide, **batch)
    objective = recipe.training_objective(guide, dataset.train)
    at_end = objective.at(1.0) if isinstance(objective, Scheduled) else objective
    batches = cut(size=16, steps=100).epoch(0)
    with RecordScales() as recorded:
        terms = at_end(model, guide, **next(batches))
    with RecordScales(unscaled=True):
        found = weights([at_end(model, guide, **one) for one in islice(batches, 2 * len(terms))])
    runs = [run for run in recorded.runs if any(observed for observed, _ in run.values())]
    bounds = dict.fromkeys(_bound(told.programs, run) for run in runs)
    loss = f"loss = {_sum(found)}"
    note = "" if recipe.bound_of == "the story" else f"the bound is of {recipe.bound_of}"
    return Story(told.programs, (loss, *(bounds if any("elbo" in name for name in found) else ())), note)


def weights(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Solve loss = sum of weight * term for the weights, from several values of all terms in double precision.

    A term that is a sum of those before it, as `kl` is of `elbo` and `reconstruction`, has no weight of its own; nor is
    a weight of 0 returned.

    Raises:
        ValueError: the loss is no such sum.
    """
    values = {name: torch.stack([row[name].detach().double() for row in rows]) for name in rows[0]}
    loss, names = values.pop("loss"), list[str]()
    kept: list[Tensor] = []
    for name, value in values.items():
        table = torch.stack([*kept, value / value.norm().clamp(min=1e-300)], dim=1)
        if torch.linalg.matrix_rank(table, rtol=1e-9) > len(kept):
            kept, names = [*table.T], [*names, name]
    table = torch.stack([values[name] for name in names], dim=1)
    found = torch.linalg.lstsq(table, loss[:, None]).solution[:, 0]
    if not torch.allclose(table @ found, loss, rtol=1e-6, atol=1e-9):
        raise ValueError(f"the loss is no weighted sum of {', '.join(names)}")
    return {
        name: float(f"{weight:.6g}") for name, weight in zip(names, found.tolist(), strict=True) if abs(weight) > 1e-6
    }


def _bound(programs: Mapping[str, Program], run: Run) -> str:
    """The bound of one run of a pair, as the loss weighs it."""
    model, guide = programs.values()
    seen = [name for name, (observed, _) in run.items() if observed]
    unseen = set(model.of("observed")) - set(seen)
    terms = {}
    for name, (observed, weight) in sorted(run.items(), key=lambda item: not item[1][0]):
        prior = "" if name in model.of("improper") else f"log {_density('p', model, name, unseen)}"
        if observed:
            terms[prior] = weight
        elif prior:
            terms[f"KL({_density('q', guide, name, unseen)} ‖ {prior.removeprefix('log ')})"] = -weight
        else:
            terms[f"log {_density('q', guide, name, unseen)}"] = -weight
    return f"ELBO({_given(seen, model.of('input'))}) = E_q[{_sum(terms)}]"


def _sum(terms: Mapping[str, float]) -> str:
    parts = [
        ("− " if weight < 0 else "+ ") + (f"{abs(weight):g} · " if abs(weight) != 1 else "") + term
        for term, weight in terms.items()
    ]
    return " ".join(parts).removeprefix("+ ") or "0"


def _random(program: Program) -> list[str]:
    return [*program.of("observed"), *program.of("latent", "improper")]


def _given(names: Sequence[str], given: Sequence[str]) -> str:
    return ", ".join(names) + (" | " if given else "") + ", ".join(given)


def _joint(letter: str, program: Program) -> str:
    return f"{letter}({_given(_random(program), program.of('input'))})"


def _density(letter: str, program: Program, name: str, without: Collection[str] = ()) -> str:
    parents = [up for up in program.given(name) if up not in without]
    if program.factors[name].kind == "factor":
        return f"exp {name}({', '.join(parents)})"
    return f"{letter}({_given([name], parents)})"


def _product_of(letter: str, program: Program) -> str:
    """A joint density as the product of its factors; where some are no densities, it is in proportion to that."""

    def product(names: Sequence[str], depth: int) -> str:
        parts, groups = [], [(plate, list(group)) for plate, group in _by_plate(program, names, depth)]
        for plate, group in groups:
            if plate is None:
                parts += [_density(letter, program, name) for name in group]
                continue
            inner = product(group, depth + 1)
            parts.append(f"∏_{plate.name} " + (inner if group is groups[-1][1] else f"[{inner}]"))
        return " ".join(parts)

    equal = "∝" if program.of("improper", "factor") else "="
    return f"{_joint(letter, program)} {equal} {product(program.of('observed', 'latent', 'factor'), 0)}"


def _by_plate(program: Program, names: Sequence[str], depth: int) -> Iterator[tuple[Plate | None, Iterator[str]]]:
    """Group neighbours by the plate around them at a depth."""
    around = {name: program.factors[name].plates for name in names}
    return groupby(names, key=lambda name: around[name][depth] if len(around[name]) > depth else None)


def _told(title: str, program: Program) -> str:
    """A program line by line; each plate indents what is within."""
    rows: list[tuple[str, str]] = []

    def tell(names: Sequence[str], depth: int) -> None:
        margin = "  " * (depth + 1)
        for plate, group in _by_plate(program, names, depth):
            if plate is None:
                for factor in (program.factors[name] for name in group):
                    batch, event = map(list, factor.shapes)
                    rows.append((margin + _sentence(factor), f"{batch} {event}"))
                continue
            many = f"{plate.drawn} drawn from {plate.size}" if plate.drawn < plate.size else f"each of {plate.size}"
            rows.append((f"{margin}for {many} in plate {plate.name}:", ""))
            tell(list(group), depth + 1)

    tell([name for name in program.factors if name not in program.of("input")], 0)
    if not rows:
        return f"{title}\n  draws nothing"
    width = min(60, max(len(line) for line, shapes in rows if shapes)) + 1
    learns = ", ".join(f"{name} ({numbers:,})" for name, numbers in program.learns.items())
    lines = [f"{line:{width}} {shapes}".rstrip() for line, shapes in rows] + [f"  learns {learns}"] * bool(learns)
    return "\n".join([f"{title}, and the shapes of batch and event", *(_wrapped(line, 6) for line in lines)])


def _sentence(factor: Factor) -> str:
    given, marks = ", ".join(factor.parents), f" ({'; '.join(factor.marks)})" if factor.marks else ""
    if factor.kind in ("deterministic", "factor"):
        return f"{factor.name} = f({given})" + " (deterministic)" * (factor.kind == "deterministic") + marks
    return f"{factor.name} ~ {factor.distribution}" + (f" given {given}" if given else "") + marks


def _wrapped(line: str, indent: int) -> str:
    """Break a line at 100 columns, but no density; what follows is indented."""
    whole = re.sub(r"(?<=\w)\([^()]*\)", lambda found: found[0].replace(" ", "\u00a0"), line)
    lines = textwrap.wrap(whole, 100, subsequent_indent=" " * indent, replace_whitespace=False, break_long_words=False)
    return "\n".join(lines).replace("\u00a0", " ")


def _in_latex(formula: str) -> str:
    """Turn a plain formula into LaTeX: y1 is y with an index, Greek names are letters, other names are upright."""

    def symbol(found: re.Match[str]) -> str:
        product, name, number = found.groups()
        if product:
            return rf"\prod_{{\mathrm{{{product}}}}}".replace("_", r"\_").replace(r"\_", "_", 1)
        if name in ("log", "exp", *GREEK.split()) or len(name) == 1:
            name = "\\" * (len(name) > 1) + name
        else:
            name = rf"\mathrm{{{name}}}".replace("_", r"\_")
        return name + (f"_{{{number}}}" if number else "")

    words = re.sub(r"∏_(\w+)|(?<![\w])(?!E_q)([A-Za-z]\w*?)_?(\d*)(?!\w)", symbol, formula)
    for plain, tex in SIGNS.items():
        words = words.replace(plain, tex, 1 if plain == " = " else -1)
    words = words.replace(r"\log-\mathrm{likelihood}", r"\mathrm{log\text{-}likelihood}")
    return words.replace("‖", r"\,\|\,").replace("≤", r"\leq").replace(r"\propto", r"&\propto", 1)
