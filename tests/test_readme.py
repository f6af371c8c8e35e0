"""What the README shows runs as it stands there."""

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def test_the_snippets_run_when_pasted():
    torch.set_default_dtype(torch.float32)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    namespace: dict = {}
    after = []
    for block in blocks:
        if block.startswith(("from functools", "import pyro", "import torch")):
            exec(block.replace("epochs=10", "epochs=1").replace("particles=10", "particles=2"), namespace)
            after.append(dict(namespace))
    swapped, pyros, vat, told, checked = after
    assert set(swapped["epoch"].terms) >= {"elbo", "iwae"}
    assert pyros["x"].shape == (128, 1, 28, 28)
    assert set(vat["found"]) == {"loss", "vat", "elbo"}
    assert "effect ~ Normal(loc, scale) given loc, scale" in str(told["story"](told["schools"], *torch.ones(2, 3)))
    assert [one.statistic for one in checked["found"]] == ["ink, mean", "ink, sd"]


def test_every_picture_and_file_that_it_links_to_is_there():
    text = (ROOT / "README.md").read_text()
    links = re.findall(r'src="([^"]+)"', text) + re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
