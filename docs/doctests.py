"""A Griffe extension: examples in docstrings become blocks of code, whatever stands above them."""

import re
from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Rename the section `Example:` to the one that Griffe parses, and fence the examples that stand in no section."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of a module, a class or a function before it is parsed."""
        if obj.docstring:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            example = r"^(>>> .*(?:\n.*\S.*)*)"
            obj.docstring.value = re.sub(example, r"```pycon\n\1\n```", text, flags=re.MULTILINE)
