"""Formulas with marked names: as plain text, and as LaTeX that KaTeX and MathJax take whatever the names are."""

import re
import unicodedata

OPEN, CLOSE = "\ue000", "\ue001"
"""What stands around a name in a formula."""
GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon "
    "phi chi psi omega"
)
SIGNS = {
    " | ": r" \mid ",
    "−": "-",
    "∝": r"\propto",
    "·": r"\,",
    "‖": r"\,\|\,",
    "≤": r"\leq",
    "…": r"\ldots",
    "ELBO": r"\mathrm{ELBO}",
    "KL(": r"\mathrm{KL}(",
    "E_q": r"\mathbb{E}_q",
    "log-likelihood": r"\mathrm{log\text{-}likelihood}",
}
WORDS = {"log ": r"\log ", "exp ": r"\exp ", "∏_": r"\prod_", "Σ_": r"\sum_", "∫": r"\int "}
INDEX = r"(?:\d+|(?<=_)[a-z]|(?<=_)\{[a-z][+-]\d+\})"
"""Of what follows a name: a number, or a letter of a loop and how far behind it is."""
ESCAPES = {
    **{sign: f"\\{sign}" for sign in "_%&#${}"},
    " ": r"\ ",
    "-": r"\text{-}",
    "~": r"{\sim}",
    "^": r"{\wedge}",
    "\\": r"\backslash{}",
    "'": r"{'}",
}


def name(word: str) -> str:
    """Mark a name in a formula; one of several sites that are drawn together, each of them."""
    return ", ".join(f"{OPEN}{part}{CLOSE}" for part in word.split(", "))


def plain(formula: str) -> str:
    """Return a formula as text."""
    return formula.replace(OPEN, "").replace(CLOSE, "")


def in_latex(formula: str) -> str:
    r"""Turn a formula into a line of an aligned display.

    Example:
        >>> print(in_latex(f"p({name('z_1')} | {name('sigma')}) = p({name('body_size')})"))
        p(z_{1} \mid \sigma) &= p(\mathrm{body\_size})
    """
    parts = re.split(f"(?:(∏_|Σ_))?{OPEN}([^{CLOSE}]*){CLOSE}", formula)
    text = ""
    for around, operator, word in zip(parts[::3], [*parts[1::3], None], [*parts[2::3], ""], strict=True):
        text += _signs(around)
        if operator and (loop := re.fullmatch(r"\{(\w=\d+)\.\.(\d+)\}", word)):
            text += f"{WORDS[operator]}{{{loop[1]}}}^{{{loop[2]}}}"
        elif operator:
            text += f"{WORDS[operator]}{{{symbol(word)}}}"
        else:
            text += symbol(word)
    return re.sub(r" (=|\\propto) ", r" &\1 ", text, count=1)


def symbol(word: str) -> str:
    r"""Write a name: one letter in italics, Greek names as letters, others upright; y1 and z_t have an index.

    Example:
        >>> print(*map(symbol, ["y1", "z_{t-1}", "sigma", "μ_0", "rate_%", "_latent"]))
        y_{1} z_{t-1} \sigma \mu{}_{0} \mathrm{rate\_\%} \mathrm{\_latent}
    """
    match = re.fullmatch(rf"(.*?[^\d_])_?({INDEX}(?:_{INDEX})*)", word)
    base = match[1] if match else word
    index = ", ".join(part.strip("{}") for part in match[2].split("_")) if match else ""
    if base in GREEK.split():
        written = f"\\{base}"
    else:
        written = "".join(map(_letter, base))
        if len(base) > 1:
            written = rf"\mathrm{{{written}}}"
    return written + (f"_{{{index}}}" if index else "")


def _letter(letter: str) -> str:
    if letter in ESCAPES:
        return ESCAPES[letter]
    if letter.isascii() and letter.isprintable():
        return letter
    kind = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER ([A-Z]+)", unicodedata.name(letter, ""))
    if kind and (command := {"LAMDA": "lambda"}.get(kind[2], kind[2].lower())) in GREEK.split():
        if kind[1] == "SMALL":
            return f"\\{command}{{}}"
        if command in ["gamma", "delta", "theta", "lambda", "xi", "pi", "sigma", "upsilon", "phi", "psi", "omega"]:
            return f"\\{command.capitalize()}{{}}"
    return rf"\text{{{letter}}}" if letter.isprintable() else r"\ "


def _signs(text: str) -> str:
    for sign, command in (SIGNS | WORDS).items():
        text = text.replace(sign, command)
    return text
