"""Loops of a program, whose sites differ by a number in their names alone, written as one step."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile

from pyro_models.reading.factors import Factor, Plate, Program

FEWEST = 3
"""How many steps a loop must have to be folded."""
LETTERS = "tsr"


def folded(program: Program) -> tuple[Program, dict[str, str]]:
    """Fold the loops of a program, inner ones first.

    A step is a sequence of sites that comes again and again, with one number in all their names that grows by one. Each
    site of it must have the same distribution, plates and shapes in each step, and parents that are the same or whose
    number grows likewise. Sites before, as the first of a chain, which has no parent, stand by themselves.

    Returns:
        the program, in which the site of a step is `z_t`, its parents `z_{t-1}` and so on; and for each site that was
        folded, its name there.

    Example:
        >>> z = {f"z{t}": Factor(f"z{t}", "latent", parents=(f"z{t - 1}",) if t else ()) for t in range(9)}
        >>> program, _ = folded(Program(z, {}, {}))
        >>> [(one.name, one.parents, [plate.steps for plate in one.plates]) for one in program.factors.values()]
        [('z0', (), []), ('z_t', ('z_{t-1}',), [(1, 8)])]
    """
    members: dict[str, str] = {}
    for letter in LETTERS:
        program, more = _fold_once(program, letter)
        if not more:
            break
        members = {name: more.get(new, new) for name, new in members.items()} | more
    return program, members


def _fold_once(program: Program, letter: str) -> tuple[Program, dict[str, str]]:
    factors = list(program.factors.values())
    at = {factor.name: i for i, factor in enumerate(factors)}
    new: dict[str, Factor] = {}
    members: dict[str, str] = {}
    i = 0
    while i < len(factors):
        for position in reversed(range(_numbers(factors[i].name))):
            steps, length = _steps(factors, at, i, position)
            if len(steps) >= FEWEST:
                body, names = _step(factors, steps, length, position, letter)
                if not new.keys() & {factor.name for factor in body}:
                    new |= {factor.name: factor for factor in body}
                    members |= names
                    i += length * len(steps)
                    break
        else:
            new[factors[i].name] = factors[i]
            i += 1
    return replace(program, factors=new), members


def _numbers(name: str) -> int:
    return len(re.findall(r"\d+", name))


def _number(name: str, position: int) -> int:
    return int(re.findall(r"\d+", name)[position])


def _with_number(name: str, position: int, write: Callable[[int], str]) -> str:
    """Replace one of the numbers in a name."""
    parts = re.split(r"(\d+)", name)
    parts[2 * position + 1] = write(int(parts[2 * position + 1]))
    return "".join(parts)


def _shifted(name: str, position: int, by: int) -> str:
    return _with_number(name, position, lambda number: str(number + by)) if position < _numbers(name) else name


def _steps(factors: Sequence[Factor], at: dict[str, int], start: int, position: int) -> tuple[list[int], int]:
    """Return where the steps of the loop that starts at a factor start, and the number of factors in each."""
    first = factors[start]
    length = at.get(_shifted(first.name, position, 1), 0) - start
    if length <= 0 or first.kind == "input":
        return [], 0
    number = _number(first.name, position)
    body = factors[start : start + length]
    if any(_numbers(each.name) <= position or _number(each.name, position) != number for each in body):
        return [], 0
    steps, moves = [start], None
    while (after := steps[-1] + length) + length <= len(factors):
        pairs = zip(factors[steps[-1] : after], factors[after : after + length], strict=True)
        now = [_moves(each, two, position) for each, two in pairs]
        if None in now or (moves is not None and now != moves):
            break
        moves = now
        steps.append(after)
    return steps, length


def _moves(each: Factor, two: Factor, position: int) -> list[bool] | None:
    """Return which of the parents move on with the number, from one step to the next; None if the steps differ."""

    def form(factor: Factor) -> object:
        marks = [mark.split(":")[0] for mark in factor.marks]
        return factor.kind, factor.distribution, factor.shapes, marks, len(factor.parents), len(factor.plates)

    ups = [(*each.parents, *each.possible, *each.value), (*two.parents, *two.possible, *two.value)]
    same = form(each) == form(two) and two.name == _shifted(each.name, position, 1) and len(ups[0]) == len(ups[1])
    if not same or any(a.size != b.size or a.steps != b.steps for a, b in zip(each.plates, two.plates, strict=True)):
        return None
    pairs = list(zip(*ups, strict=True))
    if any(b not in (a, _shifted(a, position, 1)) for a, b in pairs):
        return None
    return [a != b for a, b in pairs]


def _step(
    factors: Sequence[Factor], steps: Sequence[int], length: int, position: int, letter: str
) -> tuple[list[Factor], dict[str, str]]:
    """Write the step of a loop, and return for each of its sites the name there."""
    number = _number(factors[steps[0]].name, position)
    last = number + len(steps) - 1
    loop = Plate(letter, len(steps), len(steps), (number, last))
    body = factors[steps[0] : steps[0] + length]
    shared = list(takewhile(lambda same: len(set(same)) == 1, zip(*(factor.plates for factor in body), strict=False)))
    new: list[Factor] = []
    members: dict[str, str] = {}
    for i, factor in enumerate(body):
        following = factors[steps[1] + i]
        ups = (*factor.parents, *factor.possible, *factor.value)
        afters = (*following.parents, *following.possible, *following.value)
        names = {
            up: _indexed(up, position, letter, _number(up, position) - number) if up != after else up
            for up, after in zip(ups, afters, strict=True)
        }
        whole = [factors[step + i] for step in steps]
        forms = {_reworded(each, _named(each, position, letter)) for each in whole}
        marks = [mark if all(mark in each.marks for each in whole) else mark.split(":")[0] for mark in factor.marks]
        plates = [
            replace(plate, name=_indexed(plate.name, position, letter, 0)) if plate.name != later.name else plate
            for plate, later in zip(factor.plates, following.plates, strict=True)
        ]
        plates.insert(len(shared), loop)
        name = _indexed(factor.name, position, letter, 0)
        members |= {each.name: name for each in whole}
        new.append(
            replace(
                factor,
                name=name,
                parents=tuple(names[up] for up in factor.parents),
                possible=tuple(names[up] for up in factor.possible),
                value=tuple(names[up] for up in factor.value),
                named=tuple(names.get(up, up) for up in factor.named) if len(forms) == 1 else (),
                shown=forms.pop() if len(forms) == 1 else factor.distribution,
                marks=tuple(marks),
                plates=tuple(plates),
            )
        )
    return new, members


def _named(factor: Factor, position: int, letter: str) -> dict[str, str]:
    """From the parents that a distribution names to their names in a step."""
    number = _number(factor.name, position)
    return {
        up: _indexed(up, position, letter, _number(up, position) - number) if position < _numbers(up) else up
        for up in factor.named
    }


def _reworded(factor: Factor, names: dict[str, str]) -> str:
    words = re.split(r"([(),;\[\] ]+)", factor.shown)
    return "".join(names.get(word, word) for word in words)


def _indexed(name: str, position: int, letter: str, lag: int) -> str:
    """Write a letter, and how far behind a number is, in its place: `z_t`, `z_{t-1}`."""
    index = f"{{{letter}{lag:+d}}}" if lag else letter
    separated = re.sub(r"(?<=[^\W\d_])(?=\d)", "_", name) if _numbers(name) == 1 else name
    return _with_number(separated, position, lambda _: index)


def listed(names: Sequence[str]) -> list[str]:
    """Shorten each series of names that differ by a number alone to its first and its last.

    Example:
        >>> listed(["z_0", "x_0", "z_1", "x_1", "z_2", "x_2", "z_3", "x_3", "w"])
        ['z_0', '…', 'z_3', 'x_0', '…', 'x_3', 'w']
    """
    series: dict[tuple[str, int], list[str]] = {}
    for name in names:
        for position in reversed(range(_numbers(name))):
            before = _shifted(name, position, -1)
            key = (_with_number(name, position, lambda _: "#"), position)
            if key in series and series[key][-1] == before:
                series[key].append(name)
                break
            if key not in series:
                series[key] = [name]
    short: list[str] = []
    done: set[str] = set()
    for name in names:
        if name in done:
            continue
        whole = next((each for each in series.values() if each[0] == name and len(each) > FEWEST), [name])
        done |= set(whole)
        short += whole if len(whole) == 1 else [whole[0], "…", whole[-1]]
    return short
