"""Checkpoints from files, of which nothing is believed: they may be another's, torn, changed or hostile."""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from pruning import archs
from pruning.checkpoints.checkpoint import PREFIX, Checkpoint, first_line
from pruning.errors import UserError
from pruning.files import read_bytes
from pruning.settings import value_of

MODEL = "model.safetensors"  # in the directory of a run
SPARSE_KEY = "pruning.sparse"  # of the metadata of a sparse file, which `pruning.export` reads


class ChangedError(UserError):
    """A file is not the one that was planned, or made, any more."""


def load(path: Path | str, sha256: str | None = None) -> Checkpoint:
    """Read a file that `Checkpoint.save` wrote, or the one in a run's directory.

    UserError if it is none or is no network that can be used, ChangedError if it has not the digest `sha256`.
    """
    path = Path(path)
    path = path / MODEL if path.is_dir() else path
    return verified(path, unpack(path, content_of(path, sha256)))


def verified(path: Path, found: Checkpoint) -> Checkpoint:
    """Return the checkpoint in the network's order and types; UserError, with the `path`, if it cannot be used."""
    try:
        return found.check()
    except UserError as error:
        raise UserError(f"{path} {error}") from None


def find_file(path: Path) -> Path:
    """Return the file of a checkpoint, that of a run's directory where `path` is one; UserError if there is none."""
    file = path
    try:
        file = path / MODEL if path.is_dir() else path
        kind = "" if file.is_file() else "is no regular file" if file.exists() else "no such file"
    except OSError as error:  # such as a name that is too long, or a directory that may not be looked into
        kind = error.strerror or str(error)
    if kind == "no such file":
        text = f"this directory holds no {MODEL}" if file != path else "no such file, and no run has that id"
        raise UserError(f"path={path}: {text}", "path")
    if kind:
        raise UserError(f"path={path}: {kind}", "path")
    return file


def content_of(path: Path, sha256: str | None = None) -> bytes:
    """Return the bytes of a file; UserError if it cannot be read, ChangedError if they have not the digest `sha256`."""
    try:
        content = read_bytes(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read as a checkpoint: {error.strerror or error}") from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ChangedError(f"{path} has changed: it is not the file that it was")
    return content


def unpack(path: Path, content: bytes) -> Checkpoint:
    """Read the content of a file that `Checkpoint.save` wrote, `path` for messages; UserError if it is none."""
    try:
        tensors = safetensors.torch.load(content)
        header = header_of(content)
    except Exception as error:  # torch raises nearly everything for tensors of odd kinds
        raise UserError(f"{path} cannot be read as a checkpoint: {first_line(error)}; is it truncated?") from None
    try:
        about = json.loads(header.get("__metadata__", {})["pruning"])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        about = None
    if about is None and SPARSE_KEY in (header.get("__metadata__") or ()):
        text = f"{path} is a sparse file of stage=export: pruning.load and resume= read it"
        raise UserError(text)
    mask = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
    return Checkpoint(weights, mask, **about_of(path, about))


def is_ours(content: bytes) -> bool:
    """Return whether it is a safetensors file that says so, or that cannot be understood."""
    if content[8:9] != b"{":
        return False
    try:
        entries = header_of(content).get("__metadata__", {})
        return not isinstance(entries, dict) or bool({"pruning", SPARSE_KEY} & entries.keys())
    except (AttributeError, TypeError, ValueError, RecursionError):
        return True


def header_of(content: bytes) -> dict[str, Any]:
    """Return the header of a safetensors file; ValueError or RecursionError if it is none."""
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")], object_pairs_hook=_no_twice)


def about_of(path: Path, about: Any) -> dict[str, Any]:
    """Return `arch`, `num_classes` and `normalisation` as a checkpoint has them; UserError if they are not there."""
    try:
        arch, num_classes = value_of("arch", about["arch"], str), value_of("num_classes", about["num_classes"], int)
        normalisation = _constants(about["normalisation"])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise UserError(f"{path} was not written by this program: its metadata do not name the architecture") from None
    if not 2 <= num_classes < 2**31 or (arch not in archs.ARCHS and not about.get("network")):
        raise UserError(f"{path} is for {arch!a} with {num_classes} classes, which this program does not know")
    if network := about.get("network"):
        try:
            arch = archs.Foreign.from_file(network)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{path} is for {arch!a}, which it does not describe: {error}") from None
    return {"arch": arch, "num_classes": num_classes, "normalisation": normalisation}


def _constants(given: Any) -> dict[str, list[float]]:
    """Return the normalisation as a checkpoint has it; ValueError if it is none. Before 0.3 it could be empty."""
    found = {key: [*value_of(key, given[key], tuple[float, ...])] for key in ("mean", "std")} if given else {}
    numbers = torch.tensor([*found.values()], dtype=torch.float64)
    if found and (numbers.shape != (2, 3) or not numbers.isfinite().all() or not (numbers[1] > 0).all()):
        raise ValueError("mean and std must be three numbers each")
    return found


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON mapping; ValueError if a name stands there twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!a} stands there twice")
    return found
