"""A network's weights and mask as one frozen value: saved whole, checked before anything uses it.

On disk: a safetensors file with the weights under their names, the mask under `mask/NAME`, and in the metadata
the architecture, the number of classes and the normalisation, so that it can be loaded by itself.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
from torch import Tensor, nn

from pruning import archs
from pruning.checkpoints.classifier import Classifier
from pruning.errors import UserError
from pruning.files import write_whole
from pruning.masks import Mask, prunable
from pruning.modules import load_states, states

PREFIX = "mask/"


@dataclass(frozen=True)
class Checkpoint:
    """`weights` is a state dict (parameters and buffers, on the CPU); `mask` names the prunable weights, or is {}."""

    weights: dict[str, Tensor]
    mask: Mask
    arch: archs.Arch
    num_classes: int
    normalisation: dict[str, list[float]]  # mean and std of each channel, pixels scaled to 0..1

    @property
    def about(self) -> dict[str, Any]:
        """What a file says of it, so that it can be loaded by itself."""
        about = {"arch": str(self.arch), "num_classes": self.num_classes, "normalisation": self.normalisation}
        if isinstance(self.arch, archs.Foreign):
            about["network"] = self.arch.about
        return about

    def save(self, path: Path, check: Callable[[], None] = lambda: None) -> str:
        """Write the file whole or not at all, `check` as in `write_whole`; equal checkpoints give equal bytes.

        Return its sha256, in hex.
        """
        tensors = self.weights | {PREFIX + name: keep for name, keep in self.mask.items()}
        # one metadata entry: safetensors writes several in an order that changes from process to process
        metadata = {"pruning": json.dumps(self.about, sort_keys=True)}
        packed = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, metadata)
        write_whole(path, packed, check)
        return hashlib.sha256(packed).hexdigest()

    def network(self) -> nn.Module:
        """Return a new network with these weights, on the CPU, in evaluation mode.

        It takes images (N, 3, H, W), float32, pixels scaled to 0..1 and then normalised with `normalisation`.
        """
        model = archs.build(self.arch, self.num_classes)
        load_states(model, self.weights)
        return model.eval()

    def classifier(self) -> Classifier:
        """Return the network with its preprocessing in front: images as uint8, or as floats in 0..1, in; logits out."""
        return Classifier(self.network(), self.normalisation).eval()

    def check(self) -> Self:
        """Return it in the network's order and types; UserError, to follow a file's name, if it cannot be used.

        Its tensors must fit the architecture, their values be finite, its mask be of prunable weights, and what the
        mask prunes be zero.
        """
        if isinstance(self.arch, archs.Foreign):
            self.arch.check_source()
        model = archs.skeleton(self.arch, self.num_classes)
        expected = states(model)
        tensors = {**self.weights, **{PREFIX + name: keep for name, keep in self.mask.items()}}
        for name, tensor in tensors.items():
            if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
                kind = f"{tensor.layout}, {tensor.dtype}, {tensor.device}"
                raise UserError(f"holds {name!a}, which is no plain tensor ({kind})")
        found, wanted = ({k: tuple(t.shape) for k, t in some.items()} for some in (self.weights, expected))
        if differences := compare(found, wanted):
            more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
            fits = f"arch={self.arch} with {self.num_classes} classes"
            raise UserError(f"does not fit {fits}: {'; '.join(differences[:3])}{more}")
        weights = {name: _as(name, self.weights[name], like.dtype) for name, like in expected.items()}
        names = prunable(model, "conv+linear")
        for name, keep in self.mask.items():
            if name not in names:
                raise UserError(f"has a mask for {name!a}, which is no prunable weight")
            if keep.dtype != torch.bool or keep.shape != wanted[name]:
                text = f"{keep.dtype} {list(keep.shape)}, not torch.bool {list(wanted[name])}"
                raise UserError(f"has a mask for {name} that is {text}")
            if wrong := int(torch.count_nonzero(weights[name].masked_fill(keep, 0))):
                raise UserError(f"has {wrong} weights in {name} that its mask prunes and that are not zero")
        return replace(self, weights=weights, mask={name: self.mask[name] for name in names if name in self.mask})


def _as(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `tensor` as `dtype`: other floats and whole numbers are cast; UserError for other kinds and values."""
    kinds = {torch.is_floating_point: dtype.is_floating_point, _is_whole: not dtype.is_floating_point}
    if not any(wanted and kind(tensor) for kind, wanted in kinds.items()):
        raise UserError(f"has {tensor.dtype} values in {name}, not {dtype}")
    value = tensor.detach().to(dtype).contiguous()
    if wrong := int((~value.isfinite()).sum()):
        raise UserError(f"has {wrong} values in {name} that are not finite")
    if name.endswith("running_var") and bool((value < 0).any()):
        raise UserError(f"has negative variances in {name}")
    return value


def _is_whole(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool


def compare(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return how `found` differs from `wanted`, in words, in the order of `wanted`."""
    missing = [f"{name} is missing" for name in wanted if name not in found]
    shapes = [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    unknown = [f"{ascii(name)[1:-1]} is unknown" for name in found if name not in wanted]
    return shapes + missing + unknown


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the model's parameters and buffers: on the CPU, contiguous, apart from the model."""
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in states(model).items()}


def first_line(error: Exception) -> str:
    """Return the cause in one line; torch hides it behind the advice to trust the file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith(("WeightsUnpickler error: ", "Trying to load "))]
    line = [*causes, *lines, type(error).__name__][0].removeprefix("WeightsUnpickler error: ")
    return line.partition(". ")[0].rstrip(".")[:160]
