"""The one exception that reaches a user as a line of text instead of a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """An error that the caller can correct; its message is one line: what is wrong, why, and what to do.

    Messages are written for Python callers. Names of options and arguments stand in backticks, with their value where
    it matters: "`scale` goes with `likelihood=normal`, not with bernoulli". The command line rewrites `some_name` to
    --some-name and `some_name=value` to "--some-name value"; no message spells a flag itself.

    Args:
        message: the line.
        exit_code: what the command line exits with.
    """

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def nearest(word: str, known: Iterable[str]) -> str:
    """Return what to say of an unknown word: the nearest known one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else "choose from " + ", ".join(known)
