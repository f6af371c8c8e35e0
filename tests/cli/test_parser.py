"""Options on the command line: their help, and messages in its spelling."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_models.cli.parser import in_flags
from pyro_models.cli.verbs import VERBS, main
from pyro_models.recipes import RECIPES
from pyro_models.runs import RunOptions

PACKAGE = Path(__file__).parents[2] / "pyro_models"


@pytest.mark.parametrize("options", [*RECIPES.values(), RunOptions], ids=lambda options: options.__name__)
def test_every_option_says_what_it_does(options):
    for field in dataclasses.fields(options):
        assert len(field.metadata["help"]) >= 25, field.name


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "train"])
def test_every_option_of_a_verb_says_what_it_does(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    text = re.sub(r"\n +(?!-)", " ", capsys.readouterr().out)
    for option in re.findall(r"^  --(?!help).*$", text, re.MULTILINE):
        said = re.sub(r"^ *--\S+( \{\S+\}| [A-Z=:,.a-z]+( \[.*?\])?)? +", "", option)
        assert len(said) >= 25, option


@pytest.mark.parametrize(
    ("message", "spelt"),
    [
        ("`label_seed` must be at least 0", "--label-seed must be at least 0"),
        ("use `elbo=trace`", "use --elbo trace"),
        ("give `resume=True`", "give --resume"),
        ("leave `subsets=False` out", "leave --no-subsets out"),
        ("`data=my file.csv` is a table", "--data my file.csv is a table"),
        ("nothing to spell: 'y' | x", "nothing to spell: 'y' | x"),
    ],
)
def test_messages_are_spelt_as_on_the_command_line(message, spelt):
    assert in_flags(message) == spelt


def test_no_message_for_a_python_caller_spells_a_flag():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and "continue with" not in ast.unparse(node):
                assert not re.search(r"--[a-z]", ast.unparse(node)), f"{path.name}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    "words", [["--help"], ["vae", "--help"], ["gmvae", "--kinds", "3"], ["jmvae", "--preset", "x"]]
)
def test_help_and_mistakes_do_not_wait_for_torch(words):
    program = "import sys\nfrom pyro_models.cli.train import main\ntry:\n    main(sys.argv[1:])\n"
    program += "except SystemExit:\n    assert 'torch' not in sys.modules\n"
    assert subprocess.run([sys.executable, "-c", program, *words], capture_output=True).returncode == 0
