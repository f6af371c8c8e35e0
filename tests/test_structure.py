"""The rooms of the house: which imports which, how large each is, and what is asked of a recipe."""

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from pyro_models.recipes import Recipe

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pyro_models"
LEVELS = (
    ("base",),
    ("nn", "distributions"),
    ("stories", "objectives", "data"),
    ("guides",),
    ("training", "reading", "metrics"),
    ("checking", "likelihood"),
    ("plots",),
    ("pictures",),
    ("recipes",),
    ("runs",),
    ("report", "sklearn"),
    ("cli",),
)
"""A room imports from the levels above its own line here, and from itself."""
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
FILES = [
    path for folder in (PACKAGE, ROOT / "guides") for path in sorted(folder.rglob("*.py*")) if path.suffix != ".pyc"
]
STORIES = sorted(path.stem for path in PACKAGE.glob("[a-z]*.py"))


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("pyro_models", *parts) if parts[0] == "guides" else parts  # as they are imported
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def nodes_of(path):
    return list(ast.walk(ast.parse(path.read_text())))


def is_module(name):
    path = ROOT.joinpath(*name.removeprefix("pyro_models.").split("."))
    path = path if path.parts[len(ROOT.parts)] == "guides" else ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@cache
def imported(path):
    """Every module of ours that a file imports: at its top, within functions, or for type checking alone."""
    package = module_of(path) if path.stem == "__init__" else module_of(path).rpartition(".")[0]
    found = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1]] * bool(node.level))
            base = ".".join(filter(None, [base, node.module]))
            found |= {f"{base}.{a.name}" if is_module(f"{base}.{a.name}") else base for a in node.names}
        of_package = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if of_package and node.value.id in ("guides", "pyro_models"):
            package = "pyro_models.guides" if node.value.id == "guides" else "pyro_models"
            found.add(f"{package}.{node.attr.removesuffix('Guide').lower()}")  # as pyro_models.VAE
    assert not any(name.split(".")[0] == "guides" for name in found), (
        "an installed package has pyro_models.guides alone"
    )
    return {name for name in found if name.split(".")[0] == "pyro_models"}


def room_of(module):
    """The room of a module; None of the packages' own fronts and of the program's entry."""
    room = module.partition(".")[2].split(".")[0]
    return "stories" if room in STORIES else (room if room in LEVEL else None)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_one_way(path):
    room = room_of(module_of(path))
    if room is None:
        return
    for name in imported(path):
        other = room_of(name)
        assert other is None or other == room or LEVEL[other] < LEVEL[room], f"{room} imports {name}"


def test_no_files_import_each_other_in_a_circle():
    """Counting imports within functions, those for type checking alone, and those of a package's front."""
    graph: dict = {}
    for path in FILES:
        graph.setdefault(module_of(path), set()).update(imported(path))
    left = dict(graph)
    while free := [name for name, needs in left.items() if not needs & left.keys() - {name}]:
        for name in free:
            del left[name]
    assert not left


def test_no_room_holds_more_than_a_fifth_of_the_package():
    lines = Counter()
    for path in PACKAGE.rglob("*.py"):
        lines[room_of(module_of(path))] += len(path.read_text().splitlines())
    room, most = lines.most_common(1)[0]
    assert most <= lines.total() / 5, f"{room}: {most} of {lines.total()}"


def test_a_recipe_is_asked_only_what_every_recipe_answers():
    """No other room knows which recipe it has: it reads no option of one kind of recipe, and compares no name."""
    for path in PACKAGE.rglob("*.py"):
        if room_of(module_of(path)) in ("recipes", "pictures"):  # a picture is of the recipes that list it
            continue
        for node in nodes_of(path):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[-1] == "recipe":
                assert hasattr(Recipe, node.attr) or node.attr == "name", f"{path.name}: {ast.unparse(node)}"
            if isinstance(node, ast.Compare):
                assert "recipe.name" not in ast.unparse(node), f"{path.name}: {ast.unparse(node)}"


def test_only_recipes_import_stories_and_guides():
    users = {path.name for path in FILES if any(room_of(n) in ("stories", "guides") for n in imported(path))}
    assert {f"{name}.py" for name in STORIES} >= users


def test_each_story_has_the_guide_of_its_name():
    assert sorted(path.stem for path in (ROOT / "guides").glob("[a-z]*.py")) == STORIES


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.pyi")), ids=module_of)
def test_no_public_name_hides_a_file(path):
    names = {alias.asname for node in ast.parse(path.read_text()).body for alias in node.names}
    files = {other.stem for other in path.parent.glob("*.py")}
    assert not names & files


def test_no_public_function_has_the_name_of_its_file():
    import pyro_models

    assert not [name for name, module in pyro_models._PUBLIC.items() if module.endswith(f".{name}")]
