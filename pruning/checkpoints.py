"""A network's weights and mask as one frozen value: saved whole, loaded safely, imported from the original code.

On disk: a safetensors file with the weights under their names, the mask under `mask/NAME`, and in the metadata
the architecture, the number of classes and the normalisation, so that it can be loaded by itself.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pruning import archs
from pruning.errors import UserError
from pruning.files import write_whole
from pruning.masks import Mask, prunable

PREFIX = "mask/"
MODEL = "model.safetensors"  # in the directory of a run


@dataclass(frozen=True)
class Checkpoint:
    """`weights` is a state dict (parameters and buffers, on the CPU); `mask` names the prunable weights, or is {}."""

    weights: dict[str, Tensor]
    mask: Mask
    arch: str
    num_classes: int
    normalisation: dict[str, list[float]]  # mean and std of each channel, pixels scaled to 0..1

    def save(self, path: Path) -> None:
        """Write the file whole or not at all; equal checkpoints give equal bytes."""
        tensors = self.weights | {PREFIX + name: keep for name, keep in self.mask.items()}
        about = {"arch": self.arch, "num_classes": self.num_classes, "normalisation": self.normalisation}
        # one metadata entry: safetensors writes several in an order that changes from process to process
        metadata = {"pruning": json.dumps(about, sort_keys=True)}
        packed = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, metadata)
        write_whole(path, packed)

    def network(self) -> nn.Module:
        """Return a new network with these weights, on the CPU, in evaluation mode.

        It takes images (N, 3, H, W), float32, pixels scaled to 0..1 and then normalised with `normalisation`.
        """
        model = archs.build(self.arch, self.num_classes)
        model.load_state_dict(self.weights)
        return model.eval()


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the model's state dict: on the CPU, contiguous, apart from the model."""
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in model.state_dict().items()}


def load(path: Path | str) -> Checkpoint:
    """Read a file that `Checkpoint.save` wrote, or the one in a run's directory; UserError if it is none."""
    path = Path(path)
    path = path / MODEL if path.is_dir() else path
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["pruning"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        mask = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
        return Checkpoint({k: v for k, v in tensors.items() if not k.startswith(PREFIX)}, mask, **about)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} was not written by this program: its metadata do not name the architecture") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint: {first_line(error)}; is it truncated?") from None


def load_original(path: Path, arch: str, num_classes: int) -> Checkpoint:
    """Read a `.pth.tar` of the original code: a dict with `state_dict`, its keys with or without `module.`.

    Its zeros in convolution weights become the mask (there the zeros *are* the mask); other entries are ignored.
    """
    model = archs.build(arch, num_classes)
    make = np.float64(0).__reduce__()[0]  # best_acc is often a numpy number
    scalar: list[Any] = [make, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType]
    scalar.append((make, "numpy.core.multiarray.scalar"))  # its name before numpy 2
    try:
        with torch.serialization.safe_globals(scalar), warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle can fail in any way
        raise UserError(
            f"{path} cannot be read as a checkpoint: {first_line(error)}; is it truncated or foreign?"
        ) from None
    states = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(states, Mapping) or not all(isinstance(v, Tensor) for v in states.values()):
        raise UserError(f"{path} is not a checkpoint of weights: expected a dict with an entry state_dict")
    weights = {name.removeprefix("module."): tensor for name, tensor in states.items()}
    for name, buffer in model.state_dict().items():  # older files have no counter of batches
        if name.endswith("num_batches_tracked"):
            weights.setdefault(name, torch.zeros_like(buffer))
    mask = {name: weights[name] != 0 for name in prunable(model) if name in weights}
    mask = mask if any(bool((~keep).any()) for keep in mask.values()) else {}
    return Checkpoint(weights, mask, arch, num_classes, {})


def load_as(path: Path, arch: str, num_classes: int) -> Checkpoint:
    """Read either kind of file and check it against that network; UserError names the first differences."""
    given, path = path, path / MODEL if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"path={given}: no such file, and no run has that id", "path")
    with path.open("rb") as file:
        head = file.read(9)
    found = load(path) if head[8:9] == b"{" else load_original(path, arch, num_classes)
    if (found.arch, found.num_classes) != (arch, num_classes):
        raise UserError(
            f"path={path} holds {found.arch} for {found.num_classes} classes, not {arch} for {num_classes}; "
            f"give arch={found.arch} and its dataset",
            "path",
        )
    wanted = {name: tuple(t.shape) for name, t in archs.build(arch, num_classes).state_dict().items()}
    differences = list(compare({k: tuple(t.shape) for k, t in found.weights.items()}, wanted))
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        text = f"path={path} does not fit arch={arch} with {num_classes} classes: {'; '.join(differences[:3])}{more}"
        raise UserError(text, "path")
    return found


def compare(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return how `found` differs from `wanted`, in words, in the order of `wanted`."""
    missing = [f"{name} is missing" for name in wanted if name not in found]
    shapes = [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    unknown = [f"{name} is unknown" for name in found if name not in wanted]
    return shapes + missing + unknown


def digest(path: Path) -> str:
    """Return the sha256 of a file's content, in hex."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"path={path} cannot be read: {error.strerror}", "path") from None


def first_line(error: Exception) -> str:
    """Return the cause in one line; torch hides it behind the advice to trust the file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith(("WeightsUnpickler error: ", "Trying to load "))]
    line = [*causes, *lines, type(error).__name__][0].removeprefix("WeightsUnpickler error: ")
    return line.partition(". ")[0].rstrip(".")[:160]
