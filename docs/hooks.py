"""MkDocs hooks: what the pages show from outside `docs/`, and tables made from the code.

- Pictures of `notebooks/figures` and the pages of `benchmarks` become part of the site; links to them are
  written as they work on GitHub, relative to the page's file, and are rewritten here.
- Each notebook becomes a page: its text, its code, and below a cell the figures that the cell names in its metadata
  (`# %% figure="NAME.png"`). Formulas become MathML, which browsers show by themselves.
- `<!-- options: NAME -->` becomes the table of a recipe's options, from the fields of its dataclass,
  `<!-- run options -->` that of where and how to run, and `<!-- recipes -->` the table of recipes.
"""

import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pyro_models.base.markdown import markdown as table
from pyro_models.recipes.options import options_of
from pyro_models.recipes.registry import RECIPES
from pyro_models.recipes.registry import table as recipes
from pyro_models.runs import RunOptions

ROOT = Path(__file__).parents[1]
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+?)\$", re.DOTALL)
ABOUT = (
    "This is `{path}`, a script that Jupyter opens as a notebook; `make notebooks` executes it in full. With "
    "`PYRO_STORIES_SHORT=1` it takes about a minute, on small data. The figures are of full runs.\n"
)


def options(of: type) -> str:
    """Return the fields of a dataclass of options as a Markdown table: spelling, default, and what each does."""
    hints = get_type_hints(of)
    rows = []
    for field in options_of(of):
        choices = [str(choice) for choice in get_args(hints[field.name]) if isinstance(choice, str)]
        help = str(field.metadata["help"]) + (f" ({', '.join(choices)})" if choices else "")
        default = "" if field.default in (None, False) else str(field.default)
        rows.append(
            {
                "option": f"`--{field.name.replace('_', '-')}`{{ .option }}",
                "default": f"`{default}`" if default else "",
                "what it does": help,
            }
        )
    return table(rows)


def notebook(path: Path) -> str:
    """Return a notebook as a page."""
    import jupytext

    parts = []
    for cell in jupytext.read(path).cells:
        if cell.cell_type == "markdown":
            parts.append(FORMULA.sub(formula, cell.source))
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for figure in cell.metadata.get("figure", "").split():
            (ROOT / "notebooks/figures" / figure).stat()  # or the page would lack it without a word
            words = Path(figure).stem.replace("-", " ")
            parts.append(f'<img src="../../notebooks/figures/{figure}" alt="{words}">')
    title, text = "\n\n".join(parts).split("\n", 1)
    return f"{title}\n\n{ABOUT.format(path=path.relative_to(ROOT))}\n{text}"


def formula(found: re.Match) -> str:
    """Return a formula between dollars as MathML."""
    from latex2mathml.converter import convert

    text = (found[1] or found[2]).replace(r"\_", "_").replace(r"\big", "")
    if found[1]:
        return convert(text, display="block")
    return f"<span>{convert(text)}</span>"  # a paragraph that began with <math> would end with it


def on_files(files: Any, config: Any) -> Any:
    """Add the pictures and what was measured to the site."""
    from mkdocs.structure.files import File

    for path in sorted((ROOT / "notebooks/figures").iterdir()):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    for path in sorted((ROOT / "benchmarks").glob("*.md")):
        files.append(File.generated(config, path.name.lower(), abs_src_path=str(path)))
    for path in sorted((ROOT / "notebooks").glob("*.py")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook(path)))
    return files


def on_page_markdown(text: str, page: Any, **_: Any) -> str:
    """Fill in the tables, and point links at where the site has their targets."""
    up = "../" * page.file.src_uri.count("/")
    text = re.sub(r"<!-- options: (\S+) -->", lambda found: options(RECIPES[found[1]]), text)
    text = text.replace("<!-- run options -->", options(RunOptions))
    text = text.replace("<!-- recipes -->", recipes())
    text = re.sub(r"(\.\./)+notebooks/figures/", f"{up}figures/", text)
    text = re.sub(r"(\.\./)+notebooks/(\w+)\.py", lambda found: f"{up}notebooks/{found[2]}.md", text)
    return re.sub(r"(\.\./)+benchmarks/(\w+\.md)", lambda found: up + found[2].lower(), text)
