"""The network as ONNX, with its preprocessing inside: float32 images (N, 3, H, W) in 0..1 in, logits out; any N.

The weights stay what they are, to the bit and under their names (nothing is folded into convolutions), so the zeros are
there and `pruning.load` reads the file back. Pruned weights are stored, as zeros: ONNX has no sparse convolution.
"""

import importlib
import io
import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning import archs
from pruning.checkpoints import Checkpoint
from pruning.checkpoints.checkpoint import first_line
from pruning.checkpoints.reading import about_of
from pruning.data import Progress
from pruning.errors import UserError
from pruning.files import write_whole
from pruning.modules import states

ONNX = "model.onnx"
KEY = "pruning"  # of the metadata
OPSET = 17
INSIDE = "network."
IMAGES = 16  # on which the file is compared with PyTorch
TOLERANCE = 1e-4  # of the largest logit: float32 sums in another order


def wanted(name: str) -> Any:
    """Import `onnx` or `onnxruntime`; UserError with what to install if it is not there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"ONNX needs {name}, which is not installed: pip install onnx onnxruntime") from None


def save_onnx(
    checkpoint: Checkpoint, path: Path | str, size: tuple[int, int] = (32, 32), progress: Progress | None = None
) -> float:
    """Write the file whole or not at all, for images of `size`; return how far the logits are from PyTorch's.

    UserError if that is more than rounding, or a class differs.
    """
    tell = progress or (lambda *_: None)
    packed = pack(checkpoint, size)
    tell("onnx", 1, 2)
    difference = compare(checkpoint, packed, size)
    write_whole(Path(path), packed)
    tell("onnx", 2, 2)
    return difference


def pack(checkpoint: Checkpoint, size: tuple[int, int] = (32, 32)) -> bytes:
    """Return the content of the file; the same for equal checkpoints and versions of torch."""
    onnx = wanted("onnx")
    written, axes = io.BytesIO(), {"images": {0: "batch"}, "logits": {0: "batch"}}
    with warnings.catch_warnings(action="ignore"):  # on the exporter's age: the new one folds, and needs more packages
        torch.onnx.export(
            checkpoint.classifier(),
            (torch.zeros(2, 3, *size),),
            written,  # type: ignore[arg-type] # its types know the new exporter only
            dynamo=False,
            opset_version=OPSET,
            training=torch.onnx.TrainingMode.PRESERVE,  # the mode of the network, evaluation; folds no BatchNorm
            do_constant_folding=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes=axes,
        )
    model = onnx.load_from_string(written.getvalue())
    onnx.helper.set_model_props(
        model, {KEY: json.dumps(checkpoint.about | {"mask": [*checkpoint.mask]}, sort_keys=True)}
    )
    return model.SerializeToString(deterministic=True)


@torch.no_grad()
def compare(checkpoint: Checkpoint, content: bytes, size: tuple[int, int] = (32, 32)) -> float:
    """Return the largest difference of a logit under ONNX Runtime from PyTorch's; UserError if it is no rounding."""
    runtime = wanted("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    images = torch.rand(IMAGES, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = checkpoint.classifier()(images)
    found = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    difference, largest = float((found - expected).abs().max()), float(expected.abs().max())
    sure = expected.topk(2).values.diff().abs().squeeze(1) > 2 * difference  # else a tie may go either way
    if not difference <= TOLERANCE * max(1.0, largest) or bool((found.argmax(1) != expected.argmax(1))[sure].any()):
        raise UserError(f"the ONNX file does not compute what PyTorch does: logits differ by {difference:.2g}")
    return difference


def is_onnx(content: bytes) -> bool:
    """Return whether the content of a file begins like ONNX: with the version of its format, then its producer."""
    return content[:1] == b"\x08" and content[2:3] == b"\x12"


def unpack(path: Path, content: bytes) -> Checkpoint:
    """Return the checkpoint that `pack` was given, `path` for messages; UserError if the content is anything else."""
    onnx = wanted("onnx")
    try:
        model = onnx.load_from_string(content)
        about = next((json.loads(prop.value) for prop in model.metadata_props if prop.key == KEY), None)
        tensors = {found.name: found for found in model.graph.initializer}
        for node in model.graph.node:  # equal tensors are stored once
            if node.op_type == "Identity" and node.input[0] in tensors:
                tensors[node.output[0]] = tensors[node.input[0]]
        raw = {name.removeprefix(INSIDE): found for name, found in tensors.items() if name.startswith(INSIDE)}
        weights = {name: _tensor(found) for name, found in raw.items()}
    except Exception as error:  # of protobuf, or a number that is none
        text = f"{path} cannot be read as an ONNX file of this program: {first_line(error)}; is it truncated?"
        raise UserError(text) from None
    found = Checkpoint(weights, {}, **about_of(path, about))
    names = (about or {}).get("mask")
    if not isinstance(names, list) or not all(name in weights for name in names):
        raise UserError(f"{path} does not say which of its weights are prunable")
    expected = states(archs.skeleton(found.arch, found.num_classes))
    for name, buffer in expected.items():
        if name.endswith("num_batches_tracked"):  # which ONNX has no use for
            weights[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)
    return replace(found, weights=weights, mask={name: weights[name] != 0 for name in names})


def _tensor(found: Any) -> Tensor:
    """Return a plain float32 tensor that the file holds itself; ValueError for any other."""
    if found.data_type != 1 or found.external_data or len(found.raw_data) != 4 * math.prod(found.dims):
        raise ValueError(f"{found.name!a} is no plain float32 tensor")
    return torch.from_numpy(np.frombuffer(found.raw_data, "<f4").astype(np.float32)).reshape([*found.dims])
