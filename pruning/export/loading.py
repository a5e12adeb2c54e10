"""One door for every file that holds a network: ours, sparse, ONNX, or a state dict of the original code."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from pruning import archs
from pruning.checkpoints import Checkpoint
from pruning.checkpoints.original import checkpoint_of, states_of, unpickle, with_new_head
from pruning.checkpoints.reading import content_of, find_file, is_ours, unpack, verified
from pruning.errors import UserError
from pruning.export import onnx, sparse
from pruning.modules import states


def load(path: Path | str, sha256: str | None = None, *, arch: archs.Arch | None = None) -> Checkpoint:
    """Read a network, whatever of these the file is; it is known by its content, not by its name.

    A run's directory or its `model.safetensors`; `model.sparse.safetensors`; `model.onnx`; a `.pth.tar` of the original
    code or a state dict, as torch or safetensors write it, whose architecture is known by names and shapes, or given as
    `arch`: one of ARCHS, or `package.module.function`. Nothing in a file is executed; but a file may name a network
    from elsewhere, and then the function of that name is imported from this machine, and called. UserError if it is no
    network that can be used, ChangedError if it has not the digest `sha256`.
    """
    file, arch = find_file(Path(path)), _known(arch)
    content = content_of(file, sha256)
    if (found := _ours(file, content)) is None:
        weights = states_of(file, content)
        return checkpoint_of(file, weights, *identify(file, weights, arch))
    return verified(file, replace(found, arch=arch) if arch else found)


def _ours(file: Path, content: bytes) -> Checkpoint | None:
    """Return what a file of this program holds, unchecked; None for a state dict."""
    if sparse.is_sparse(content):
        return sparse.unpack(file, content)
    if onnx.is_onnx(content):
        return onnx.unpack(file, content)
    return unpack(file, content) if is_ours(content) else None


def load_as(path: Path, arch: archs.Arch, num_classes: int, sha256: str | None = None) -> Checkpoint:
    """Read any of these files and check it against that network; UserError names the first differences.

    ChangedError if its content has not the digest `sha256`.
    """
    file = find_file(path)
    content = content_of(file, sha256)
    found = with_new_head(_ours(file, content) or unpickle(file, content, arch, num_classes), arch, num_classes)
    if (archs.spec_of(found.arch), found.num_classes) != (archs.spec_of(arch), num_classes):
        raise UserError(
            f"path={file} holds {found.arch} for {found.num_classes} classes, not {arch} for {num_classes}; "
            f"give arch={found.arch} and its dataset",
            "path",
        )
    try:
        return replace(found, arch=arch).check()
    except UserError as error:
        raise UserError(f"path={file} {error}", "path") from None


def identify(path: Path, found: Mapping[str, Tensor], arch: archs.Arch | None = None) -> tuple[archs.Arch, int]:
    """Return the architecture and the number of classes of a state dict, by names and shapes; UserError if unknown."""
    wide = [tensor.shape[0] for tensor in found.values() if tensor.ndim == 2]
    shapes = {name: tensor.shape for name, tensor in found.items() if not name.endswith("num_batches_tracked")}
    for one in [arch] if arch else archs.ARCHS:
        if wide and wide[-1] >= 2:
            expected = states(archs.skeleton(one, wide[-1]))
            if arch or shapes == {k: t.shape for k, t in expected.items() if not k.endswith("num_batches_tracked")}:
                return one, wide[-1]
    raise UserError(
        f"{path} holds weights of no architecture known here ({', '.join(archs.ARCHS)}); give its own, or "
        "stage=check resume=FILE counts the zeros of any"
    )


def _known(arch: archs.Arch | None) -> archs.Arch | None:
    """Return the network that a caller names: one of ours, a Foreign, or `package.module.function`."""
    if not isinstance(arch, str):
        return arch
    return archs.read({"_target_": arch} if "." in arch else {"name": arch})
