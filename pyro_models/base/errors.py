"""The exception that the command line shows as one line of text instead of a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """An error that the caller can understand; its message is one line: what is wrong, why, and what to do.

    Messages are written for Python callers. Names of options and arguments stand in backticks, with their value where
    it matters: "`scale` goes with `likelihood=normal`, not with bernoulli". The command line rewrites `some_name` to
    --some-name and `some_name=value` to "--some-name value"; no message spells a flag itself.

    Args:
        message: the line.
        exit_code: of the command line: 2 for what the user wrote or gave, 1 for what went wrong, 130 for an interrupt.
    """

    def __init__(self, message: str, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code


class DataError(UserError):
    """Data that cannot be read, understood or learned from."""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its class where the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return advice on an unknown word: the nearest choice, or all of them.

    >>> nearest("vea", ["vae", "gmvae"])
    "did you mean 'vae'?"
    """
    choices = list(choices)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else "choose from " + ", ".join(choices)
