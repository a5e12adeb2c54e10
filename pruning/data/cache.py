"""Files that only save time: written aside, fsynced, renamed; a directory that cannot be written is no error."""

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from torch import Tensor


def read_text(path: Path) -> str | None:
    """Return the text, or None if there is none."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None


def write_text(path: Path, text: str) -> None:
    _write(path, lambda aside: aside.write_text(text))


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a safetensors file, on the CPU, or None if there is no whole file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    _write(path, lambda aside: save_file(tensors, aside))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    from safetensors import SafetensorError

    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, SafetensorError):  # read-only or full: the work is done again next time
        pass
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
