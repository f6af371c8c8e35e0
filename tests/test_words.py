"""Names in the code are the field's: none is a word that its reader would have to learn here."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NEVER = {
    "told", "said", "asked", "found", "one", "some", "seen", "knows", "guess", "imagine", "imagined", "kinds", "codes",
    "cut", "still", "place", "joined", "explains", "pools", "anneals", "paced", "heat", "tempered", "borders", "clouds",
    "balance", "decision", "judges", "Watch", "Telling", "Weighed", "Paired",
}  # fmt: skip
FILES = [path for folder in ("pyro_models", "guides") for path in sorted((ROOT / folder).rglob("*.py"))]


def names_in(path):
    """Every name that a file gives: to functions, classes, arguments, variables and attributes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_standard_terms(path):
    allowed = {"kinds"} if path.name == "factors.py" else set()  # of the nodes of a graph
    assert [(name, line) for name, line in names_in(path) if name in NEVER - allowed] == []
