"""The verb that prints the story of a recipe or a run."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from pyro_models.cli.verbs import main as verbs
from pyro_models.recipes.vae import VAERecipe


def test_the_verb_reads_recipes_and_run_folders(tmp_path, capsys):
    torch.set_default_dtype(torch.float32)
    words = ["vae", "--latent-dim", "3", "--batch-size", "32"]
    assert verbs(["story", *words]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"z ~ Normal\(0, 1\) +\[32\] \[3\]", printed)
    recipe = VAERecipe(latent_dim=3, batch_size=32)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.as_json()))
    assert verbs(["story", str(tmp_path)]) == 0
    assert capsys.readouterr().out == printed
    out = tmp_path / "story.svg"
    assert verbs(["story", *words, "--out", str(out)]) == 0
    ElementTree.fromstring(out.read_text())
    assert verbs(["story", *words, "--format", "mermaid"]) == 0
    assert "flowchart TD" in capsys.readouterr().out
    assert verbs(["story", *words, "--against", "vae --latent-dim 5 --batch-size 32"]) == 0
    assert "-     z ~ Normal(0, 1)  [32] [5]\n" in capsys.readouterr().out
    assert verbs(["story", *words, "--overlay", "--out", str(out)]) == 0
    assert "dashed arrow: guide" in out.read_text()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["gmva"], "pyro-stories story gmva: unknown recipe 'gmva': did you mean 'gmvae'?"),
        (
            ["vae", "--laten-dim", "3"],
            "pyro-stories story vae: unknown option '--laten-dim': did you mean '--latent-dim'?",
        ),
        (["."], "pyro-stories story: . is no run folder: it holds no recipe.json"),
        (["vae", "--overlay"], "pyro-stories story: --overlay is a picture: give --format svg, or --out FILE.svg"),
        (
            ["vae", "--against", "hvae", "--format", "dot"],
            "pyro-stories story: --against is shown as text, svg, html, not dot",
        ),
        ([], "pyro-stories story: the following arguments are required: RUN|RECIPE"),
    ],
)
def test_wrong_words_are_answered_in_a_line(words, complaint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        verbs(["story", *words])
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip() == complaint
