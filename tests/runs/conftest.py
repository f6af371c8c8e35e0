"""What tests of whole runs share."""

import pytest
import torch

from pyro_models import report
from pyro_models.cli.train import main
from pyro_models.runs import trainer
from pyro_models.training import loop


@pytest.fixture
def quick(monkeypatch):
    """Single precision, a checkpoint after each epoch, and no pictures and page, which are tested elsewhere."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(report, "publish", lambda run: None)
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)


@pytest.fixture
def complaint_of(capsys, tmp_path):
    """Run train.py and return the one line of its complaint, which comes before any folder is made."""

    def run(*words):
        try:
            code = main([*words, "--out", str(tmp_path / "run")])
        except SystemExit as stop:
            code = stop.code
        assert code == 2
        assert not (tmp_path / "run").exists()
        (complaint,) = capsys.readouterr().err.strip().splitlines()
        return complaint

    return run


def dies_at_step(patch, step):
    """Interrupt training at one of its next steps."""
    average, steps = loop.average_gradients, []

    def dies(optimizer):
        steps.append(1)
        if len(steps) == step:
            raise KeyboardInterrupt
        average(optimizer)

    patch.setattr(loop, "average_gradients", dies)
