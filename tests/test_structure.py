"""Imports point one way: nn and distributions, then stories and guides, then recipes."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BELOW = {"pyro_models.base", "pyro_models.nn", "pyro_models.distributions"}


def imported(path):
    """Names of modules that a file imports at its top level or within functions, typing-only ones left out."""
    tree, names = ast.parse(path.read_text()), set()
    tree.body = [node for node in tree.body if not ast.unparse(node).startswith("if TYPE_CHECKING")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in ("pyro_models", "guides")}


def within(name, rooms):
    return any(name == room or name.startswith(room + ".") for room in rooms)


STORIES = sorted(path for path in (ROOT / "pyro_models").glob("[a-z]*.py"))
GUIDES = sorted(path for path in (ROOT / "guides").glob("[a-z]*.py"))


@pytest.mark.parametrize("path", STORIES + GUIDES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_stories_and_guides_import_only_networks_and_distributions(path):
    assert all(within(name, BELOW) for name in imported(path))


@pytest.mark.parametrize(
    ("room", "allowed"),
    [
        ("base", {"pyro_models.base"}),
        ("nn", {"pyro_models.nn"}),
        ("distributions", {"pyro_models.distributions"}),
        ("objectives", {"pyro_models.nn", "pyro_models.distributions", "pyro_models.objectives"}),
        ("data", {"pyro_models.base", "pyro_models.data"}),
        ("criticism", {f"pyro_models.{room}" for room in ("base", "nn", "data", "objectives", "criticism")}),
    ],
)
def test_rooms_import_only_what_stands_below_them(room, allowed):
    files = list((ROOT / "pyro_models" / room).glob("*.py"))
    assert files
    for path in files:
        assert all(within(name, allowed) for name in imported(path)), path


def test_only_the_list_of_recipes_imports_stories_and_guides():
    stories = {f"pyro_models.{path.stem}" for path in STORIES} | {"guides"}
    machinery = [path for path in (ROOT / "pyro_models").rglob("*.py") if path.parent.name != "pyro_models"]
    users = {path.name for path in machinery if any(within(name, stories) for name in imported(path))}
    assert users == {"recipes.py"}


def test_each_story_has_the_guide_of_its_name():
    assert [path.name for path in STORIES] == [path.name for path in GUIDES]
