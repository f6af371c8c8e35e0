"""What is installed: one name, the guides inside it, and all that the page of twelve jobs needs."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
JOBS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/jobs.md").read_text(), re.DOTALL)


def test_a_wheel_puts_the_guides_inside_the_one_import_name():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["only-include"] == ["pyro_models", "guides"]
    assert wheel["sources"] == {"guides": "pyro_models/guides"}
    assert (ROOT / "pyro_models" / "py.typed").is_file()


@pytest.mark.long
def test_the_wheel_does_the_twelve_jobs_in_an_environment_of_its_own_from_an_empty_folder(tmp_path):
    """But for the packages that it depends on, which are those of this environment."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path, ROOT], check=True)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(str(Path(pytest.__file__).parents[1]))
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([python, "-m", "pip", "install", "--no-deps", "--no-index", wheel], check=True)
    (tmp_path / "empty").mkdir()
    one_name = "import pyro_models, importlib.util\nassert 'venv' in pyro_models.__file__\n"
    one_name += "assert importlib.util.find_spec('guides') is None"
    program = "\n".join(["import warnings; warnings.simplefilter('ignore')", one_name, *JOBS])
    subprocess.run([python, "-c", program], cwd=tmp_path / "empty", check=True)
    version = subprocess.run([python.with_name("pyro-stories"), "--version"], check=True, capture_output=True)
    assert version.stdout.startswith(b"pyro-stories ")
