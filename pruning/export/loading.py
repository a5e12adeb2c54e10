"""One door for every file that holds a network: ours, sparse, ONNX, or a state dict of the original code."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pruning import archs, checkpoints
from pruning.checkpoints import Checkpoint
from pruning.checkpoints.original import checkpoint_of, states_of, unpickle
from pruning.checkpoints.reading import content_of, find_file, unpack, verified
from pruning.errors import UserError, check_choice
from pruning.export import onnx, sparse


def load(path: Path | str, sha256: str | None = None, *, arch: str | None = None) -> Checkpoint:
    """Read a network, whatever of these the file is; it is known by its content, not by its name.

    A run's directory or its `model.safetensors`; `model.sparse.safetensors`; `model.onnx`; a `.pth.tar` of the original
    code or a plain state dict under its names, whose architecture is known by names and shapes, or given as `arch`.
    Nothing in a file is executed. UserError if it is no network that can be used, ChangedError if it has not the digest
    `sha256`.
    """
    file = find_file(Path(path))
    content = content_of(file, sha256)
    if sparse.is_sparse(content):
        return verified(file, sparse.unpack(file, content))
    if onnx.is_onnx(content):
        return verified(file, onnx.unpack(file, content))
    if content[8:9] == b"{":
        return checkpoints.load(file, sha256)
    states = states_of(file, content)
    name, num_classes = identify(file, states, arch)
    return checkpoint_of(file, states, name, num_classes)


def load_as(path: Path, arch: str, num_classes: int, sha256: str | None = None) -> Checkpoint:
    """Read any of these files and check it against that network; UserError names the first differences.

    ChangedError if its content has not the digest `sha256`.
    """
    file = find_file(path)
    content = content_of(file, sha256)
    if sparse.is_sparse(content):
        found = sparse.unpack(file, content)
    elif onnx.is_onnx(content):
        found = onnx.unpack(file, content)
    elif content[8:9] == b"{":
        found = unpack(file, content)
    else:
        found = unpickle(file, content, arch, num_classes)
    if (found.arch, found.num_classes) != (arch, num_classes):
        raise UserError(
            f"path={file} holds {found.arch} for {found.num_classes} classes, not {arch} for {num_classes}; "
            f"give arch={found.arch} and its dataset",
            "path",
        )
    try:
        return found.check()
    except UserError as error:
        raise UserError(f"path={file} {error}", "path") from None


def identify(path: Path, states: Mapping[str, Tensor], arch: str | None = None) -> tuple[str, int]:
    """Return the architecture and the number of classes of a state dict, by names and shapes; UserError if unknown."""
    if arch is not None:
        check_choice("arch", arch, archs.ARCHS)
    wide = [tensor.shape[0] for tensor in states.values() if tensor.ndim == 2]
    found = {name: tensor.shape for name, tensor in states.items() if not name.endswith("num_batches_tracked")}
    for name in [arch] if arch else archs.ARCHS:
        if wide and wide[-1] >= 2:
            with torch.device("meta"):
                expected = archs.build(name, wide[-1]).state_dict()
            if arch or found == {k: t.shape for k, t in expected.items() if not k.endswith("num_batches_tracked")}:
                return name, wide[-1]
    raise UserError(
        f"{path} holds weights of no architecture known here ({', '.join(archs.ARCHS)}); "
        "stage=check resume=FILE counts the zeros of any"
    )
