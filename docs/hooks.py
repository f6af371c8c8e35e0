"""MkDocs hooks: what the pages show from outside `docs/`, and tables made from the code.

- Pictures of `notebooks/figures` and the pages of `benchmarks` become part of the site; links to them are
  written as they work on GitHub, relative to the page's file, and are rewritten here.
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


def on_files(files: Any, config: Any) -> Any:
    """Add the pictures and what was measured to the site."""
    from mkdocs.structure.files import File

    for path in sorted((ROOT / "notebooks/figures").iterdir()):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    for path in sorted((ROOT / "benchmarks").glob("*.md")):
        files.append(File.generated(config, path.name.lower(), abs_src_path=str(path)))
    return files


def on_page_markdown(text: str, page: Any, **_: Any) -> str:
    """Fill in the tables, and point links at where the site has their targets."""
    up = "../" * page.file.src_uri.count("/")
    text = re.sub(r"<!-- options: (\S+) -->", lambda found: options(RECIPES[found[1]]), text)
    text = text.replace("<!-- run options -->", options(RunOptions))
    text = text.replace("<!-- recipes -->", recipes())
    text = re.sub(r"(\.\./)+notebooks/figures/", f"{up}figures/", text)
    return re.sub(r"(\.\./)+benchmarks/(\w+\.md)", lambda found: up + found[2].lower(), text)
