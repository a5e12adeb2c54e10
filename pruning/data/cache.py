"""Files that only save time: a directory that cannot be written is no error, the work is done again next time."""

import contextlib
from pathlib import Path

from torch import Tensor

from pruning.errors import UserError
from pruning.files import write_whole


def read_text(path: Path) -> str | None:
    """Return the text, or None if there is none."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None


def write_text(path: Path, text: str) -> None:
    """Keep the text for `read_text`."""
    with contextlib.suppress(UserError):
        write_whole(path, text.encode())


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a safetensors file, on the CPU, or None if there is no whole file."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception:  # whatever is in it, or is not: it is made again
        return None


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Keep the tensors for `read_tensors`."""
    from safetensors.torch import save

    with contextlib.suppress(UserError):
        write_whole(path, save(tensors))
