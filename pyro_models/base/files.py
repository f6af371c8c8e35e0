"""Files that are whole or not there."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyro_models.base.errors import UserError


def write(path: Path, content: bytes | str) -> None:
    """Write a file so that at every moment the old or the new content is there, whole.

    Raises:
        UserError: it cannot be written; the old content is still there.
    """
    data = content.encode() if isinstance(content, str) else content

    def write_bytes(target: Path) -> None:
        with target.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    replace(path, write_bytes)


def replace(path: Path, write_to: Callable[[Path], Any]) -> None:
    """Let `write_to` write a file beside `path`, then put it in the place of `path` in one step.

    Raises:
        UserError: it cannot be written; the old content is still there.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        write_to(beside)
        beside.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; what was there before is kept") from None
    finally:
        beside.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: it is not there, or no JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content
