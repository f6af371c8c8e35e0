"""Packages import nothing before a name is used, and no name hides a module."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOMS = ["nn", "distributions", "data", "plots"]


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_resolves_and_none_is_that_of_a_file(room):
    package = importlib.import_module(f"pyro_models.{room}")
    assert not {path.stem for path in Path(package.__file__).parent.glob("*.py")} & set(package.__all__)
    assert all(getattr(package, name) is not None for name in package.__all__)


def test_importing_them_does_not_import_torch():
    names = ", ".join(f"pyro_models.{room}" for room in ROOMS)
    subprocess.run([sys.executable, "-c", f"import sys, {names}; assert 'torch' not in sys.modules"], check=True)
