"""Scores, statistics and numbers as a reader of the page knows them."""

from collections.abc import Mapping

SCORES = {
    "elbo": "ELBO",
    "elbo_exact": "ELBO, summed over y",
    "reconstruction": "E[log p(x | z)]",
    "kl": "KL(q ‖ p)",
    "loss": "loss",
    "mse": "squared error of reconstructions",
    "f1": "F1",
    "nmi": "normalised mutual information",
    "ari": "adjusted Rand index",
    "marginal_kl": "KL(mean q(y | x) ‖ p(y))",
    "kl_given_x": "KL(q(z | x, y) ‖ q(z | x))",
    "kl_given_y": "KL(q(z | x, y) ‖ q(z | y))",
    "correctness": "correctness, all given",
    "iwae": "IWAE bound",
    "renyi": "Rényi bound",
}

STATISTICS = {  # of images: what replicates are when theirs is too high, when it is too low, and what it is of
    "ink": ("too dark", "too light", "darkness"),
    "centre, right": ("too far right", "too far left", "place across"),
    "centre, down": ("too low in the picture", "too high in the picture", "height in the picture"),
    "stroke width": ("too thick in their strokes", "too thin in their strokes", "stroke width"),
    "holes": ("too full of holes (ragged strokes)", "too poor in holes (filled loops)", "number of holes"),
    "symmetry": ("too symmetric", "not symmetric enough", "symmetry"),
    "distance to the nearest": ("too unlike any training datum", "too like training data, as copies are", "novelty"),
    "distance of pixel means": ("wrong in their mean image", "too near to the mean training image", ""),
    "distance of correlations": ("wrong in how columns go together", "too near to training's correlations", ""),
}


def score_name(name: str) -> str:
    """Return the name of a score or a term as papers write it.

    >>> score_name("elbo"), score_name("kl_z1"), score_name("labelled_elbo"), score_name("clusters_used")
    ('ELBO', 'KL of z1', 'ELBO, labelled data', 'clusters used')
    >>> score_name("reconstruction_y1")
    'E[log p(y1 | z)]'
    """
    if name.startswith("labelled_"):
        return f"{score_name(name.removeprefix('labelled_'))}, labelled data"
    if name not in SCORES and name.startswith("kl_"):
        return f"KL of {name.removeprefix('kl_')}"
    if name.startswith("reconstruction_"):
        return f"E[log p({name.removeprefix('reconstruction_')} | z)]"
    if name.startswith(("elbo_", "correctness_", "coverage_")) and name not in SCORES:
        first, _, rest = name.partition("_")
        return f"{SCORES.get(first, first).removesuffix(', all given')}, {rest}{' given' * rest.isdigit()}"
    return SCORES.get(name, name.replace("_", " "))


def number(value: float) -> str:
    """Return a number with two decimals, a whole one without, and one below 1 with three digits.

    >>> number(-265.0310), number(5.0), number(0.0012345)
    ('−265.03', '5', '0.00123')
    """
    digits = f"{value:.0f}" if value == round(value) else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"
    return digits.replace("-", "−")


def count(number: int, noun: str) -> str:
    """Return how many there are.

    >>> count(1, "epoch"), count(2, "epoch")
    ('1 epoch', '2 epochs')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def failing(check: Mapping[str, float], observed: float, statistic: str) -> str:
    """Return what replicates are, of which a statistic is not that of the data.

    >>> failing({"mean": 2.0}, 3.0, "holes, mean"), failing({"mean": 2.0}, 1.0, "ink, sd")
    ('too poor in holes (filled loops)', 'too varied in darkness')
    >>> failing({"mean": 2.0}, 1.0, "alcohol, kurtosis")
    'too high in alcohol, kurtosis'
    """
    high = check["mean"] > observed
    for name, (above, below, of) in STATISTICS.items():
        if statistic.startswith(name):
            if statistic.endswith(", sd"):
                return f"too {'varied' if high else 'uniform'} in {of}"
            return above if high else below
    return f"too {'high' if high else 'low'} in {statistic}"
