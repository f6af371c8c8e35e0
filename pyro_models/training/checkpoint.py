"""Checkpoints, which are read without unpickling."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from pyro_models.base.errors import UserError, first_line
from pyro_models.base.files import write

KEYS = {"recipe", "processes", "weights", "optimizer", "best", "metrics", "frames"}


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint: tensors, numbers, strings, and lists and dicts of them."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        UserError: it is truncated or damaged, or not a checkpoint of a run.
    """
    advice = "delete it if the run is finished, or start again with `overwrite`"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen classes for a damaged file
        reason = "truncated or damaged" if not zipfile.is_zipfile(path) else first_line(error)
        raise UserError(f"cannot read the checkpoint {path} ({reason}): {advice}", 1) from None
    if not isinstance(state, dict) or not state.keys() >= KEYS:
        raise UserError(f"{path} is not a checkpoint of a run of this version: {advice}", 1)
    return state
