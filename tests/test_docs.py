"""What the documents say holds: their code runs, their commands parse, their links and file names lead somewhere."""

import contextlib
import importlib
import io
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from pyro_models.cli.train import parse
from pyro_models.cli.verbs import main
from pyro_models.recipes.registry import RECIPES, table
from tests.test_structure import LEVELS

ROOT = Path(__file__).parents[1]
WRITTEN = sorted(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "api")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/RESULTS.md", *WRITTEN]
OUTPUT = 'text title="output"'
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page):
    """The fenced blocks of a page, in order: language and text."""
    return [(found[2], found[3]) for found in FENCE.finditer(page.read_text())]


def prose(page):
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def shape(text):
    """A text without its numbers and its spacing: another machine rounds and aligns differently."""
    return re.sub(r"[ -]+", " ", re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", text)).strip()


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(language == "python" for language, _ in blocks(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    """Blocks of a page share a namespace; a block `output` is what the one before it prints, but for the numbers."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    namespace, found = {"__name__": "page"}, blocks(page)
    for (language, text), (after, output) in zip(found, [*found[1:], ("", "")], strict=True):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            if language == "python":
                exec(compile(text, str(page), "exec"), namespace)
            elif language == "sh" and after == OUTPUT:
                assert main(shlex.split(text.removeprefix("python -m pyro_models "))) == 0
        assert after != OUTPUT or shape(printed.getvalue()) == shape(output)


@every_page
def test_every_fence_has_a_language(page):
    known = {"python", "text", OUTPUT, "sh"}
    assert {language for language, _ in blocks(page)} <= known


def verb(*words):
    """Run a verb of `python -m pyro_models`, which prints its help and ends."""
    with pytest.raises(SystemExit):
        main(words)


def commands(page):
    """The shell commands of a page, in blocks and in code spans, without comments."""
    text = page.read_text()
    lines = [line for language, block in blocks(page) if language in ("", "sh") for line in block.splitlines()]
    spans = [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCE.sub("", text))]
    for line in lines + spans:
        words = shlex.split(line.removesuffix("...").strip(), comments=True)
        while words and "=" in words[0]:
            words = words[1:]
        if words:
            yield words


TRAIN = (["python", "train.py"], ["pyro-stories", "train"], ["python", "-m", "pyro_models", "train"])


@every_page
def test_every_training_command_parses(page, capsys):
    for words in commands(page):
        start = next((start for start in TRAIN if words[: len(start)] == start), None)
        if words[0] == "torchrun" and "train.py" in words:
            start = words[: words.index("train.py") + 1]
        if start is None or words[len(start) :] in ([], ["RECIPE"]) or "RECIPE" in words:
            continue
        rest = [word for word in words[len(start) :] if word != "--resume"]
        if rest[-1] == "--help":
            assert rest[0] in RECIPES
            continue
        try:
            parse(rest)
        except SystemExit:
            pytest.fail(f"{shlex.join(words)}: {capsys.readouterr().err}")


@every_page
def test_every_verb_and_its_options_exist(page, capsys):
    for words in commands(page):
        plain = ("VERB", "train", "recipes", "--help")
        if words[:3] != ["python", "-m", "pyro_models"] or len(words) == 3 or words[3] in plain:
            continue
        verb(words[3], "--help")
        help = capsys.readouterr().out
        for option in (word for word in words[4:] if word.startswith("--")):
            assert option in help or words[3] in ("story", "sweep"), f"{shlex.join(words)}: no {option}"


def known_options(capsys):
    """Every option of every recipe and verb."""
    verbs = (
        "report",
        "likelihood",
        "check",
        "sample",
        "story",
        "compare",
        "results",
        "sweep",
        "export",
        "push",
        "impute",
    )
    for words in [["train", name, "--help"] for name in RECIPES] + [[each, "--help"] for each in verbs]:
        verb(*words)
    return set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out)) | {"--nproc-per-node"}


def test_every_option_that_a_page_names_exists(capsys):
    known = known_options(capsys)
    for page in PAGES:
        spans = [span for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page)) if "benchmarks/" not in span]
        named = {option for span in spans for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span)}
        assert named <= known, f"{page}: {sorted(named - known)}"


def anchors(page):
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[ ]", "-", re.sub(r"[^\w\- ]", "", heading.lower()).strip()) for heading in headings}


@every_page
def test_every_local_link_leads_somewhere(page):
    text = prose(page)
    links = re.findall(r'(?:src|href)="([^"]+)"', text) + re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@every_page
def test_every_file_that_a_page_names_exists(page):
    """Names in code spans: files from the root, folders with a slash at their end, dotted modules and names in them."""
    spans = re.findall(r"(?<!`)`([^`\s]+)`(?!`)", prose(page))
    for span in spans:
        if re.fullmatch(r"(pyro_models|guides|tests|notebooks|benchmarks|docs)/[\w./-]*", span):
            assert (ROOT / span).exists(), span
        if re.fullmatch(r"(pyro_models|guides)(\.\w+)+", span):
            assert resolves(span), span


@every_page
def test_every_definition_that_a_page_places_in_a_file_is_there(page):
    for name, path in re.findall(r"`(\w+)` (?:in|of) `([\w/]+\.py)`", prose(page)):
        assert re.search(rf"^ *(def|class) {name}\b", (ROOT / path).read_text(), re.MULTILINE), (name, path)


def resolves(dotted):
    """Whether a dotted name is a module, or something in one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            if not hasattr(thing, name):
                return False
            thing = getattr(thing, name)
        return True
    return False


def test_the_readme_is_a_shop_window():
    assert len((ROOT / "README.md").read_bytes()) <= 8 * 1024
    rows = [
        line for line in (ROOT / "README.md").read_text().splitlines() if re.match(r"\| `\w+` \| .* \| .* \|", line)
    ]
    assert rows
    assert set(rows) <= set(table().splitlines())


def test_the_rooms_stand_in_the_order_of_their_imports():
    (order,) = (text for language, text in blocks(ROOT / "docs/how-to-read-the-code.md") if text.startswith("base"))
    assert tuple(tuple(level.split(", ")) for level in re.split(r"\s+<\s+", order.strip())) == LEVELS


@pytest.mark.parametrize("page", sorted((ROOT / "docs/models").glob("[a-z]*.md")), ids=lambda page: page.stem)
def test_a_page_of_a_model_has_its_parts(page):
    assert page.stem in RECIPES
    headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    assert headings[0] == "Symbols"
    assert set(headings) >= {"Symbols", "Terms", "Use", "Options"}
    assert f"<!-- options: {page.stem} -->" in page.read_text()


def test_the_tables_of_the_site_come_from_the_code(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    hooks = importlib.import_module("hooks")
    for name in RECIPES:
        assert "`--seed`" in hooks.options(RECIPES[name])
    sys.modules.pop("hooks")


def test_every_module_is_on_a_page_of_the_reference():
    reference = "\n".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    named = re.findall(r"^::: (\S+)", reference, re.MULTILINE)
    assert len(named) == len(set(named))
    for room in ("pyro_models", "guides"):
        for path in (ROOT / room).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if not path.stem.startswith("_"):
                assert module in named, module
    assert all(resolves(name) for name in named)
