"""LaTeX of names and formulas: what each becomes, and that KaTeX takes all of them."""

import json
import re
import shutil
import subprocess

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal

from pyro_models.reading import story
from pyro_models.reading.latex import symbol

NAMES = ["rate %", "A&B", "a^b", "x_", "__x", "x#1", "μ_0", "x.y_z.w", "E_q", "log", "a = b", "omicron", "$", "~", "{"]
NAMES += ["a\\b", "x'", "Δt", "日本", "é", "_latent", "lambda", "z_1_2", "per-unit", '"', "tab\t", "]", "x_t"]


def odd():
    for name in NAMES:
        with pyro.plate(f"plate of {name}", 2):
            pyro.sample(name, dist.Normal(0.0, 1.0))


def model(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    for t in range(5):
        pyro.sample(f"x_{t}", dist.Normal(loc, 1.0), obs=x[t])
    pyro.factor("penalty", -loc.abs())


def formulas():
    return [story(odd).latex, story(model, torch.zeros(5), guide=AutoDiagonalNormal(model)).latex]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leaves_its_group(name):
    """Every special character is escaped, and every brace closed."""
    bare = re.sub(r"\\(?:[A-Za-z]+|[ _%&#${}])", "", symbol(name))
    assert not set(bare) & set("%&#$~^\\")
    depth = 0
    for letter in bare:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    assert not re.search(r"_(?!\{)", bare)


@pytest.mark.long
def test_katex_takes_every_formula(tmp_path):
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    subprocess.run(["npm", "install", "--silent", "--prefix", str(tmp_path), "katex"], check=True, capture_output=True)
    script = """
        const katex = require(process.argv[1] + "/node_modules/katex"), given = JSON.parse(process.argv[2])
        const strict = code => code === "unknownSymbol" ? "ignore" : "error"
        for (const formula of given) katex.renderToString(formula, {displayMode: true, throwOnError: true, strict})
    """
    subprocess.run(["node", "-e", script, str(tmp_path), json.dumps(formulas())], check=True)
