"""A pair in text, formulas and graphs: how data are generated, how latents are inferred, and what is optimised.

All of it is read off the running programs (see `factors.read`), so that it is what they do now.
"""

import re
import textwrap
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from pyro_models.base.errors import UserError
from pyro_models.objectives.estimators import Objective
from pyro_models.reading import formulas, graphs, latex
from pyro_models.reading.factors import Factor, Program, no_side_effects, read
from pyro_models.reading.folding import folded, listed


@dataclass(frozen=True)
class Story:
    """A model, its guide where there is one, and what is optimised; a notebook shows it formatted.

    Attributes:
        programs: the model and the guide, by title.
        formulas: of the ELBO, or of a loss and of the bounds in it, with marked names (see `latex`).
        note: a remark on the objective; empty if there is none.
    """

    programs: dict[str, Program]
    formulas: tuple[str, ...]
    note: str = ""

    def __str__(self) -> str:
        return self.text

    @property
    def process(self) -> str:
        """The programs site by site, with the shapes of batch and event."""
        return "\n\n".join(_process_of(title, program) for title, program in self.programs.items())

    @property
    def objective(self) -> tuple[str, ...]:
        """The formulas in plain text."""
        return tuple(map(latex.plain, self.formulas))

    @property
    def factorisation(self) -> tuple[str, ...]:
        """Each program as a product of its factors, over plates, in plain text."""
        return tuple(map(latex.plain, self._products))

    @property
    def _products(self) -> list[str]:
        return [
            formulas.factorisation(title[-1], program)
            for title, program in self.programs.items()
            if formulas.random_sites(program)
        ]

    @property
    def text(self) -> str:
        """The whole story as plain text, 100 columns wide."""
        objective = [*self.objective, *([f"({self.note})"] if self.note else [])]
        sections = {"factorisation": self.factorisation, "\nobjective": objective}
        lines = [line for title, rows in sections.items() for line in (title, *(f"  {row}" for row in rows))]
        return "\n".join([self.process, "", *(_wrapped(line, 6) for line in lines)])

    @property
    def latex(self) -> str:
        """The factorisation and the objective, for display."""
        lines = [latex.in_latex(formula) for formula in (*self._products, *self.formulas)]
        return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"

    @property
    def mermaid(self) -> str:
        """The graph as a Mermaid flowchart."""
        return graphs.mermaid(graphs.graph_of(self.programs))

    @property
    def dot(self) -> str:
        """The graph for Graphviz."""
        return graphs.dot(graphs.graph_of(self.programs))

    @property
    def svg(self) -> str:
        """The graph as a picture, drawn without any other program."""
        return graphs.svg(graphs.graph_of(self.programs))

    @property
    def overlay(self) -> str:
        """The picture of the model, with the edges of its guide dashed on the same nodes."""
        return graphs.svg(graphs.graph_of(self.programs, overlay=True))

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
    p = read(model, args, kwargs)
    q = None if guide is None else read(guide, args, kwargs, p, names=model)
    formula, note = formulas.elbo(p, q)
    return Story({"story p": p} | ({"guide q": q} if q else {}), (formula,) if formula else (), note)


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
    with no_side_effects(), formulas.RecordScales() as recorded:
        terms = objective(model, guide, **batch)
    weights = getattr(terms, "weights", None)
    named = {latex.name(term): weight for term, weight in (weights or {}).items()}
    loss = () if weights is None else (f"{latex.name('loss')} = {formulas.weighted_sum(named)}",)
    remarks = [*([note] if note else []), *([NOT_A_SUM] if weights is None else [])]
    bounds: tuple[str, ...] = ()
    if any("elbo" in name for name in (terms if weights is None else weights)):
        runs = [run for run in recorded.runs if any(observed for observed, _ in run.values())]
        bounds = tuple(dict.fromkeys(formulas.bound(pair.programs, run) for run in runs))
    return replace(pair, formulas=(*loss, *bounds), note="; ".join(remarks))


def _process_of(title: str, program: Program) -> str:
    """A program site by site; each plate and each loop indents what is within."""
    lines = process_lines(title, program)
    return "\n".join(_wrapped(line, 6) for line in lines)


def process_lines(title: str, program: Program) -> list[str]:
    """Return the lines of a program, however long they are."""
    short, _ = folded(program)
    rows: list[tuple[str, str]] = []

    def add_rows(names: Sequence[str], depth: int) -> None:
        margin = "  " * (depth + 1)
        for plate, group in formulas.by_plate(short, names, depth):
            if plate is None:
                for factor in (short.factors[name] for name in group):
                    batch, event = map(list, factor.shapes)
                    rows.append((margin + _sentence(factor), f"{batch} {event}"))
                continue
            size = f"{plate.drawn} drawn from {plate.size}" if plate.drawn < plate.size else f"each of {plate.size}"
            over = f"{size} in plate {plate.name}"
            if plate.steps:
                over = f"{plate.name} in {plate.steps[0]}..{plate.steps[1]}"
            rows.append((f"{margin}for {over}:", ""))
            add_rows(list(group), depth + 1)

    add_rows([name for name in short.factors if name not in short.of("input")], 0)
    if not rows:
        return [title, "  draws nothing"]
    width = min(60, max(len(line) for line, shapes in rows if shapes)) + 1
    learned = {name: f"{name} ({count:,})" for name, count in program.parameters.items()}
    learns = ", ".join(learned.get(name, name) for name in listed(list(learned)))
    lines = [f"{line:{width}} {shapes}".rstrip() for line, shapes in rows] + [f"  learns {learns}"] * bool(learns)
    return [f"{title}, and the shapes of batch and event", *lines]


def _sentence(factor: Factor) -> str:
    """A site in a line: what it is drawn from, what that depends on besides, and how it counts."""
    marks = f" ({'; '.join(factor.marks)})" if factor.marks else ""
    possible = f", possibly {', '.join(listed(factor.possible))}" if factor.possible else ""
    if factor.kind in ("deterministic", "factor"):
        given = ", ".join(listed(factor.parents))
        return f"{factor.name} = f({given}{possible})" + " (deterministic)" * (factor.kind == "deterministic") + marks
    value = f" = f({', '.join(factor.value)})" if factor.value else ""
    others = [up for up in factor.parents if up not in (*factor.named, *factor.value)]
    given = f" given {', '.join(listed(others))}{possible}" if others else possible.replace(", ", " ", 1)
    return f"{factor.name}{value} ~ {factor.shown}{given}{marks}"


def _wrapped(line: str, indent: int) -> str:
    """Break a line at 100 columns, but no density and no shapes; what follows is indented."""
    together = r"(?<=\w)\((?:[^()]|\([^()]*\)){,80}\)|\[[\d, ]*\] \[[\d, ]*\]$"
    whole = re.sub(together, lambda match: match[0].replace(" ", "\u00a0"), line)
    lines = textwrap.wrap(whole, 100, subsequent_indent=" " * indent, replace_whitespace=False, break_long_words=False)
    return "\n".join(lines).replace("\u00a0", " ")
