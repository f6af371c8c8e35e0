"""The one exception that reaches a user as a line of text instead of a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can mend; the message says what and how, on one line.

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
