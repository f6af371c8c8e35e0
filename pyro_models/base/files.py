"""Atomic writes, and reading JSON."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyro_models.base.errors import UserError


def write(path: Path, content: bytes | str) -> None:
    """Write a file atomically: at every moment it holds either the old or the new content.

    Raises:
        UserError: it cannot be written; the old content is kept.
    """
    data = content.encode() if isinstance(content, str) else content

    def write_bytes(target: Path) -> None:
        with target.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    replace(path, write_bytes)


def replace(path: Path, write_to: Callable[[Path], Any]) -> None:
    """Let `write_to` write a file beside `path`, then rename it to `path`.

    Raises:
        UserError: it cannot be written; the old content is kept.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        write_to(beside)
        beside.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; the previous content is kept", 1) from None
    finally:
        beside.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file does not exist, or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a JSON object")
    return content
