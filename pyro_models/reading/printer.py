"""A pair in text, formulas and graphs: how data are generated, how latents are inferred, and what is optimised.

All of it is read off the running programs (see `factors.read`), so that it is what they do now.
"""

import re
import textwrap
from base64 import b64encode
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby
from typing import Any

from pyro_models.base.errors import UserError
from pyro_models.objectives.estimators import Objective
from pyro_models.objectives.handlers import RecordScales
from pyro_models.reading import graphs
from pyro_models.reading.factors import Factor, Plate, Program, no_side_effects, read

GREEK = "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi omega"
SIGNS = {" | ": r" \mid ", "−": "-", "∝": r"\propto", "E_q": r"\mathbb{E}_q", " = ": " &= ", "·": r"\,"}


@dataclass(frozen=True)
class Story:
    """A model, its guide where there is one, and what is optimised; a notebook shows it formatted.

    Attributes:
        programs: the model and the guide, by title.
        objective: formulas in plain text: of the ELBO, or of a loss and of the bounds in it.
        note: a remark on the objective; empty if there is none.
    """

    programs: dict[str, Program]
    objective: tuple[str, ...]
    note: str = ""

    def __str__(self) -> str:
        return self.text

    @property
    def process(self) -> str:
        """The programs site by site, with the shapes of batch and event."""
        return "\n\n".join(_process_of(title, program) for title, program in self.programs.items())

    @property
    def factorisation(self) -> tuple[str, ...]:
        """Each program as a product of its factors, over plates, in plain text."""
        return tuple(_product_of(title[-1], program) for title, program in self.programs.items() if _random(program))

    @property
    def text(self) -> str:
        """The whole story as plain text, 100 columns wide."""
        objective = [*self.objective, *([f"({self.note})"] if self.note else [])]
        formulas = {"factorisation": self.factorisation, "\nobjective": objective}
        lines = [line for title, rows in formulas.items() for line in (title, *(f"  {row}" for row in rows))]
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
        """A self-contained fragment of HTML: the graph and the text."""
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
            UserError: the package graphviz is not installed.
        """
        try:
            import graphviz
        except ImportError:
            raise UserError(
                "the package graphviz is not installed: pip install 'pyro-stories[graphviz]', or use svg"
            ) from None
        return graphviz.Source(self.dot)


def story(model: Callable[..., Any], *args: Any, guide: Callable[..., Any] | None = None, **kwargs: Any) -> Story:
    """Read a model, and its guide, by running them; any Pyro program will do.

    The runs have no side effects: random states, parameters, gradients and batch norm are as before. How the parents of
    a site are found, `factors.read` says.

    Args:
        model: a program.
        args, kwargs: what it and the guide are called with.
        guide: a program that takes the same.

    Raises:
        UserError: the programs do not take the arguments, or one raises an error.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> print(story(model, torch.zeros(3)).factorisation[0])
        p(x, z) = ∏_data p(z) p(x | z)
    """
    p_program = read(model, args, kwargs)
    programs = {"story p": p_program} | ({} if guide is None else {"guide q": read(guide, args, kwargs, p_program)})
    latent, given = p_program.of("latent", "improper"), [*p_program.of("observed"), *p_program.of("input")]
    q = _joint("q", programs["guide q"]) if "guide q" in programs else f"q({_given(latent, given)})"
    p, observed = _joint("p", p_program), p_program.of("observed")
    bounded = f" ≤ log p({_given(observed, p_program.of('input'))})" if observed else ""
    elbo = f"ELBO = E_q[log {p} − log {q}]{bounded}"
    return Story(programs, (elbo,) if latent else (f"log-likelihood = log {p}",))


NOT_A_SUM = "the loss is not a weighted sum of its terms"


def story_of_objective(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    objective: Objective,
    batch: Mapping[str, Any],
    *,
    arguments: Mapping[str, Any] | None = None,
    note: str | None = None,
) -> Story:
    r"""Read a pair, and what an objective makes of it: its loss, and each bound in it with the scales of the sites.

    As with `story`, the runs have no side effects. The weights in the loss are those that the objective returns (see
    `objectives.Terms`); without them the story has a note in place of that formula.

    Args:
        model, guide: the pair.
        objective: called as objective(model, guide, **batch).
        batch: a batch as the objective takes it.
        arguments: what the pair is called with; None means the batch.
        note: a remark on the objective.

    Raises:
        UserError: as `story`.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> from pyro_models.objectives import mean_field, scaled
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 1.0))
        >>> read = story_of_objective(model, guide, scaled(mean_field, {"z": 4.0}), {"x": torch.zeros(3)})
        >>> print(*read.objective, sep="\n")
        loss = − elbo
        ELBO(x) = E_q[log p(x | z) − 4 · KL(q(z | x) ‖ p(z))]
    """
    pair = story(model, guide=guide, **(batch if arguments is None else arguments))
    with no_side_effects(), RecordScales() as recorded:
        terms = objective(model, guide, **batch)
    weights = getattr(terms, "weights", None)
    loss = () if weights is None else (f"loss = {_sum(weights)}",)
    remarks = [*([note] if note else []), *([NOT_A_SUM] if weights is None else [])]
    bounds: tuple[str, ...] = ()
    if any("elbo" in name for name in (terms if weights is None else weights)):
        runs = [run for run in recorded.runs if any(observed for observed, _ in run.values())]
        bounds = tuple(dict.fromkeys(_bound(pair.programs, run) for run in runs))
    return replace(pair, objective=(*loss, *bounds), note="; ".join(remarks))


def _bound(programs: Mapping[str, Program], run: Mapping[str, tuple[bool, float]]) -> str:
    """The bound of one run of the model, as the loss scales it."""
    model, guide = programs.values()
    observed = [name for name, (is_observed, _) in run.items() if is_observed]
    hidden = set(model.of("observed")) - set(observed)
    terms = {}
    for name, (is_observed, scale) in sorted(run.items(), key=lambda item: not item[1][0]):
        prior = "" if name in model.of("improper") else f"log {_density('p', model, name, hidden)}"
        if is_observed:
            terms[prior] = scale
        elif prior:
            terms[f"KL({_density('q', guide, name, hidden)} ‖ {prior.removeprefix('log ')})"] = -scale
        else:
            terms[f"log {_density('q', guide, name, hidden)}"] = -scale
    return f"ELBO({_given(observed, model.of('input'))}) = E_q[{_sum(terms)}]"


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
    if name not in program.factors:  # a site that only the objective's runs have
        return f"{letter}({name})"
    parents = [up for up in program.given(name) if up not in without]
    if program.factors[name].kind == "factor":
        return f"exp {name}({', '.join(parents)})"
    return f"{letter}({_given([name], parents)})"


def _product_of(letter: str, program: Program) -> str:
    """A joint density as the product of its factors, or in proportion to it where not all of these are densities."""

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


def _process_of(title: str, program: Program) -> str:
    """A program site by site; each plate indents what is within."""
    rows: list[tuple[str, str]] = []

    def add_rows(names: Sequence[str], depth: int) -> None:
        margin = "  " * (depth + 1)
        for plate, group in _by_plate(program, names, depth):
            if plate is None:
                for factor in (program.factors[name] for name in group):
                    batch, event = map(list, factor.shapes)
                    rows.append((margin + _sentence(factor), f"{batch} {event}"))
                continue
            size = f"{plate.drawn} drawn from {plate.size}" if plate.drawn < plate.size else f"each of {plate.size}"
            rows.append((f"{margin}for {size} in plate {plate.name}:", ""))
            add_rows(list(group), depth + 1)

    add_rows([name for name in program.factors if name not in program.of("input")], 0)
    if not rows:
        return f"{title}\n  draws nothing"
    width = min(60, max(len(line) for line, shapes in rows if shapes)) + 1
    learns = ", ".join(f"{name} ({count:,})" for name, count in program.parameters.items())
    lines = [f"{line:{width}} {shapes}".rstrip() for line, shapes in rows] + [f"  learns {learns}"] * bool(learns)
    return "\n".join([f"{title}, and the shapes of batch and event", *(_wrapped(line, 6) for line in lines)])


def _sentence(factor: Factor) -> str:
    given, marks = ", ".join(factor.parents), f" ({'; '.join(factor.marks)})" if factor.marks else ""
    if factor.kind in ("deterministic", "factor"):
        return f"{factor.name} = f({given})" + " (deterministic)" * (factor.kind == "deterministic") + marks
    return f"{factor.name} ~ {factor.distribution}" + (f" given {given}" if given else "") + marks


def _wrapped(line: str, indent: int) -> str:
    """Break a line at 100 columns, but no density; what follows is indented."""
    whole = re.sub(r"(?<=\w)\([^()]*\)", lambda match: match[0].replace(" ", "\u00a0"), line)
    lines = textwrap.wrap(whole, 100, subsequent_indent=" " * indent, replace_whitespace=False, break_long_words=False)
    return "\n".join(lines).replace("\u00a0", " ")


def _in_latex(formula: str) -> str:
    """Turn a plain formula into LaTeX: y1 is y with an index, Greek names are letters, other names are upright."""

    def symbol(match: re.Match[str]) -> str:
        product, name, number = match.groups()
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
