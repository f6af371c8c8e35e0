"""Three questions answered in a sentence each: is it trained, does it look like the data, how good is the bound?"""

from collections.abc import Mapping, Sequence
from html import escape
from statistics import fmean, stdev
from typing import Any, NamedTuple

from pyro_models.checking import LEVEL
from pyro_models.report.words import count, failing, number, score_name
from pyro_models.runs import Run

FEWEST_EPOCHS = 10  # on which convergence can be judged
RISE = 0.005  # of all that validation gained since the first epoch: less over the last tenth of a run counts as flat
LEAST_KL = 0.5  # nats, below which a latent says less than one bit about x
LARGE_GAP = 0.25, 0.5  # log p(x) - ELBO by KL(q || p): above the first doubtful, above the second bad
MANY = 2.0, 1 / 3  # more failing checks than so many times chance are doubtful, than this share of all are bad
WORDS = {"good": "✓", "doubtful": "!", "bad": "✗", "unknown": "?"}


class Answer(NamedTuple):
    """A question about a run, and what can be said of it.

    Attributes:
        question: in words.
        state: good, doubtful, bad, or unknown where nothing has been measured.
        text: one sentence or two, in HTML.
        section: where the page says more.
    """

    question: str
    state: str
    text: str
    section: str


def verdict(answers: Sequence[Answer]) -> str:
    """Return the answers as HTML: a mark, its meaning in a word, and the sentences."""
    items = (
        f'<li class="{each.state}"><span class="mark" aria-hidden="true">{WORDS[each.state]}</span>'
        f'<h2><a href="#{each.section}">{each.question}</a> <small>{each.state}</small></h2><p>{each.text}</p></li>'
        for each in answers
    )
    return f'<ul id="verdict">{"".join(items)}</ul>'


def trained(run: Run, rows: Sequence[Mapping[str, float]], results: Mapping[str, Any]) -> Answer:
    """Judge by the validation curve whether training has converged, and whether latents and clusters are in use."""
    state, text = converged(rows, score_name("elbo"), run.recipe.schedule != "constant")
    test, clusters = results["test"], len(run.recipe.category_names(run.dataset))
    if not run.recipe.unanswered.get("replicates") and test.get("kl", LEAST_KL) < LEAST_KL:
        state = "doubtful" if state == "unknown" else "bad"
        text += f" The latents carry {number(test['kl'])} nats about x: q "
        text += "has not left the prior." if state == "doubtful" else "has collapsed onto the prior."
    if test.get("clusters_used", clusters) < clusters:
        state = "bad" if state == "bad" else "doubtful"
        text += f" Of {clusters} clusters {test['clusters_used']:.0f} are used."
    return Answer("Is it trained?", state, text, "training")


def converged(rows: Sequence[Mapping[str, float]], name: str, decays: bool) -> tuple[str, str]:
    """Judge the curve of `validation_elbo` over the epochs: a state, and a sentence.

    The mean of the last tenth of the epochs, of those that were evaluated, is compared with that of the tenth before it
    and with the best of all tenths. A change counts that is above two standard errors, by the noise from epoch to
    epoch, and above 0.5 % of what was gained since the first epoch.

    >>> converged([{"validation_elbo": -100 + 50 / (k + 1)} for k in range(9)], "ELBO", False)[0]
    'unknown'
    >>> rising = [{"validation_elbo": float(k)} for k in range(40)]
    >>> falling = [{"validation_elbo": -abs(k - 10.0)} for k in range(40)]
    >>> flat = [{"validation_elbo": -100.0 / (k + 1) ** 2} for k in range(40)]
    >>> [converged(rows, "ELBO", False)[0] for rows in (rising, falling, flat)]
    ['doubtful', 'bad', 'good']
    """
    every, rows = len(rows), [row for row in rows if "validation_elbo" in row]
    values, unit = [row["validation_elbo"] for row in rows], "epoch" if len(rows) == every else "evaluation"
    if len(values) < FEWEST_EPOCHS:
        too_few = f"{count(len(values), unit)} {'is' if len(values) == 1 else 'are'} too few"
        return "unknown", f"{too_few} to judge whether the validation {name} has converged."
    width = max(3, len(values) // 10)
    tenths = [fmean(values[k : k + width]) for k in range(len(values) - width + 1)]
    gain, best = tenths[-1] - tenths[-1 - width], max(tenths)
    changes = [b - a for a, b in zip(values[-2 * width :], values[-2 * width + 1 :], strict=False)]
    noise = 2 * stdev(changes) / width**0.5
    tolerance = max(noise, RISE * (best - values[0]))
    if best - tenths[-1] > tolerance:
        peak, lost = tenths.index(best) + width // 2, number(best - tenths[-1])
        trained = [row.get("train_elbo", 0.0) for row in (rows[peak], rows[-1])]
        epoch = rows[peak].get("epoch", peak + 1)
        why = ", while that of training data rose: it overfits" if trained[0] < trained[1] else ""
        return "bad", f"No: the validation {name} peaked near epoch {epoch:g} and has lost {lost} since{why}."
    if gain > tolerance:
        gained = f"{number(gain)} over the last {width} {unit}s"
        return "doubtful", f"Not yet: the validation {name} gained {gained}; train longer."
    caution = " The learning rate decayed, which flattens any curve: a longer run may still gain." if decays else ""
    changed = f"{number(gain)} over the last {width} {unit}s"
    return "good", f"The validation {name} is flat: it changed by {changed}.{caution}"


def replicated(content: Mapping[str, Any] | None, unanswered: str | None, command: str) -> Answer:
    """Say how many checks fail, and what that looks like.

    Args:
        content: of checks.json.
        unanswered: why there cannot be checks.
        command: what makes them, in HTML.
    """
    question, section = "Does it look like the data?", "checks"
    if unanswered:
        return Answer(question, "unknown", f"{escape(unanswered)}.", section)
    if not content or not content.get("checks"):
        return Answer(question, "unknown", f"Not checked yet: {command}", section)
    results = [
        (abs(each[given]["mean"] - each["observed"]) / max(each[given]["sd"], 1e-12), given, each)
        for each in content["checks"]
        for given in ("prior", "posterior")
        if given in each
    ]
    failed = [(far, given, each) for far, given, each in results if each[given]["two_sided"] <= LEVEL]
    failed.sort(key=lambda result: (result[1] != "prior", -result[0]))  # what the story draws by itself comes first
    chance = LEVEL * len(results)
    state = "good" if len(failed) <= MANY[0] * chance else "bad" if len(failed) > MANY[1] * len(results) else "doubtful"
    text = f"{len(failed)} of {len(results)} checks fail at 5 %, where chance would fail {number(chance)}."
    words = list(dict.fromkeys(failing(each[given], each["observed"], each["statistic"]) for _, given, each in failed))
    if words:
        text += f" Replicates are {escape('; '.join(words[:3]))}."
    return Answer(question, state, text, section)


def bounded(run: Run, results: Mapping[str, Any], command: str) -> Answer:
    """Say how far the bound is from the log-likelihood, as a share of KL(q || p)."""
    question, section, estimate = "How good is the bound?", "bound", results.get("log_likelihood")
    if reason := run.recipe.unanswered.get("log-likelihood"):
        return Answer(question, "unknown", f"{escape(reason)}.", section)
    density = escape(f"log {run.recipe.density}")
    if not estimate:
        return Answer(question, "unknown", f"{density} is not estimated yet: {command}", section)
    text = f"{density} is {number(estimate['mean'])} ± {number(estimate['standard_error'])} nats"
    test = results["test"]
    if "gap" in estimate:
        gap, guide = (estimate["gap"][part]["mean"] for part in ("gap", "amortisation"))
        gained = number(min(gap, guide))  # no more than all of it, as its noise may say
        text += f"; the ELBO is {number(gap)} below, of which a better guide of its family would gain {gained}"
    elif results["units"].get("elbo") == estimate["unit"]:
        gap = estimate["mean"] - test["elbo"]
        text += f"; the ELBO is {number(gap)} below"
    else:
        return Answer(question, "unknown", f"{text}; how far the ELBO is below it was not measured.", section)
    kl = test.get("kl", 0.0)
    share = gap / kl if kl > 0 else float("inf")
    state = "good" if share <= LARGE_GAP[0] else "doubtful" if share <= LARGE_GAP[1] else "bad"
    text += "." if kl <= 0 else f" ({share:.0%} of KL(q ‖ p))." if share <= 1 else " (more than KL(q ‖ p) itself)."
    untrusted = estimate.get("untrusted", 0)
    if untrusted > results["images"]["test"] / 4:
        state = "doubtful" if state == "good" else state
        text += f" Of {untrusted} data the estimate cannot be trusted: too few effective samples."
    return Answer(question, state, text, section)
