"""Programs and objectives as formulas, with marked names (see `latex`): factorisations, and bounds."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pyro_models.reading.factors import Plate, Program
from pyro_models.reading.folding import folded, listed
from pyro_models.reading.latex import name


class RecordScales(Messenger):
    """Record what scales each site in each run of a program, which a plate begins; it stands outermost.

    Attributes:
        runs: for each run, by the names of its sites, whether they are observed and the scales of their log-densities.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[dict[str, tuple[bool, float]]] = []

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) or not self.runs:
            self.runs.append({})
        if not site_is_subsample(msg):
            self.runs[-1][msg["name"]] = (msg["is_observed"], float(torch.as_tensor(msg["scale"]).mean()))


def random_sites(program: Program) -> list[str]:
    """Return the sites that a program is a density of, observed ones first."""
    return [*program.of("observed"), *program.of("latent", "improper")]


def weights(program: Program) -> list[str]:
    """Return the sites that multiply the density without being one."""
    return [site for site, factor in program.factors.items() if factor.is_weight]


def factorisation(letter: str, program: Program) -> str:
    """A joint density as the product of its factors, or in proportion to it where not all of these are densities."""
    short, _ = folded(program)

    def product(names: Sequence[str], depth: int) -> str:
        parts, groups = [], [(plate, list(group)) for plate, group in by_plate(short, names, depth)]
        for plate, group in groups:
            if plate is None:
                parts += [_density(letter, short, site) for site in group]
                continue
            inner = product(group, depth + 1)
            over = plate.name if plate.steps is None else f"{{{plate.name}={plate.steps[0]}..{plate.steps[1]}}}"
            parts.append(f"∏_{name(over)} " + (inner if group is groups[-1][1] else f"[{inner}]"))
        return " ".join(parts)

    equal = "∝" if program.of("improper") or weights(program) else "="
    counted = {*short.of("observed", "latent"), *weights(short)}
    return f"{_joint(letter, program)} {equal} {product([site for site in short.factors if site in counted], 0) or '1'}"


def by_plate(program: Program, names: Sequence[str], depth: int) -> Iterator[tuple[Plate | None, Iterator[str]]]:
    """Group neighbours by the plate around them at a depth."""
    around = {site: program.factors[site].plates for site in names}
    return groupby(names, key=lambda site: around[site][depth] if len(around[site]) > depth else None)


def elbo(model: Program, guide: Program | None) -> tuple[str, str]:
    """The bound that a guide gives, or the likelihood where nothing is latent, and a remark on it.

    Sites that are enumerated in the model and that the guide does not draw are summed over, as `TraceEnum_ELBO` does.
    The formula is empty where other sites are missing in the guide, or it draws what is not latent in the model: that
    is no bound.
    """
    latent, observed, inputs = model.of("latent", "improper"), model.of("observed"), model.of("input")
    drawn = {site for joint in guide.of("latent", "improper") for site in joint.split(", ")} if guide else set(latent)
    summed = [site for site in latent if site not in drawn and model.factors[site].is_enumerated]
    missing = [site for site in latent if site not in drawn and site not in summed]
    auxiliary = {site.name for site in guide.factors.values() if "auxiliary" in site.marks} if guide else set()
    extra = [site for site in random_sites(guide) if site not in auxiliary] if guide else []
    extra = [site for joint in extra for site in joint.split(", ") if site not in latent]
    remarks = [f"the guide lacks {', '.join(listed(missing))}"] if missing else []
    remarks += [f"the guide has {', '.join(listed(extra))}, not latent in the model"] if extra else []
    if remarks:
        return "", "no ELBO: " + "; ".join(remarks)
    p = f"log {_sum_over(summed)}{_joint('p', model)}"
    unnormalised = weights(model)
    p += "".join(f" + {name(site)}({_names(model.given(site))})" for site in unnormalised)
    left = _names([_label(model, site) for site in observed])
    if not latent:
        return f"log-likelihood = {p}", ""
    q = _joint("q", guide) if guide else f"q({_bar(_names(latent), _names([*observed, *inputs]))})"
    bounded = (
        f" ≤ log p({_bar(left, _names(inputs))})" if observed and not unnormalised and not model.of("improper") else ""
    )
    remark = f"p times exp {', '.join(unnormalised)} is not normalised: a bound of the log of its integral"
    return f"ELBO = E_q[{p} − log {q}]{bounded}", remark if unnormalised else ""


def bound(programs: Mapping[str, Program], run: Mapping[str, tuple[bool, float]]) -> str:
    """The bound of one run of the model, as the loss scales it."""
    model, guide = programs.values()
    observed = [site for site, (is_observed, _) in run.items() if is_observed]
    hidden = set(model.of("observed")) - set(observed)
    terms = {}
    for site, (is_observed, scale) in sorted(run.items(), key=lambda item: not item[1][0]):
        prior = "" if site in model.of("improper") else f"log {_density('p', model, site, hidden)}"
        if is_observed:
            terms[prior] = scale
        elif prior:
            terms[f"KL({_density('q', guide, site, hidden)} ‖ {prior.removeprefix('log ')})"] = -scale
        else:
            terms[f"log {_density('q', guide, site, hidden)}"] = -scale
    return f"ELBO({_bar(_names(observed), _names(model.of('input')))}) = E_q[{weighted_sum(terms)}]"


def weighted_sum(terms: Mapping[str, float]) -> str:
    """Write a sum of terms with their weights."""
    parts = [
        ("− " if weight < 0 else "+ ") + (f"{abs(weight):g} · " if abs(weight) != 1 else "") + term
        for term, weight in terms.items()
    ]
    return " ".join(parts).removeprefix("+ ") or "0"


def _names(names: Sequence[str]) -> str:
    return ", ".join(site if site == "…" else name(site) for site in listed(names))


def _bar(left: str, right: str) -> str:
    return left + (" | " if right else "") + right


def _sum_over(names: Sequence[str]) -> str:
    return f"Σ_{name(', '.join(listed(names)))} ".replace(", ", ",") if names else ""


def _label(program: Program, site: str) -> str:
    """Name an observed site: by its data, where its value is a function of these and of latents."""
    factor = program.factors[site]
    data = factor.value[0] if factor.value else site
    is_of_latents = any(up in program.factors and program.factors[up].kind != "input" for up in factor.value[1:])
    return data if is_of_latents and data not in program.factors else site


def _joint(letter: str, program: Program) -> str:
    names = [_label(program, site) for site in random_sites(program)]
    return f"{letter}({_bar(_names(names), _names(program.of('input')))})"


def _density(letter: str, program: Program, site: str, without: Collection[str] = ()) -> str:
    if site not in program.factors:  # a site that only the objective's runs have
        return f"{letter}({name(site)})"
    parents = [up for up in program.given(site) if up not in without]
    given = _names([*parents, *(f"{up}?" for up in program.factors[site].possible)])
    if program.factors[site].is_weight:
        return f"exp {name(site)}({given})"
    return f"{letter}({_bar(name(_label(program, site)), given)})"
