"""The ONNX file computes what PyTorch does, from images, and is read back to the bit."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import pruning
from pruning.errors import UserError
from pruning.export import onnx as exported
from tests.export.made import checkpoint, same


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    pruning.save_onnx(checkpoint(), path)
    return path


def outputs(path: Path, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


@pytest.mark.parametrize("arch", ["resnet20", "vgg16"])
def test_it_computes_what_pytorch_does_from_images_in_batches_of_any_size(arch: str, tmp_path: Path) -> None:
    path, made = tmp_path / "x.onnx", checkpoint(arch)
    difference = pruning.save_onnx(made, path)
    images = torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad():
        expected = made.classifier()(images)
        mean, std = (torch.tensor(made.normalisation[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        assert torch.allclose(expected, made.network()((images / 255 - mean) / std), atol=1e-6)
    for n in (1, 5):
        found = torch.from_numpy(outputs(path, (images[:n] / 255).numpy()))
        assert float((found - expected[:n]).abs().max()) <= 1e-4 * max(1.0, float(expected.abs().max()))
        assert torch.equal(found.argmax(1), expected[:n].argmax(1))
    assert 0 <= difference <= 1e-4 * max(1.0, float(expected.abs().max()) * 10)


def test_it_is_read_back(resnet: Path) -> None:
    found = pruning.load(resnet)
    made = checkpoint()
    counters = {k: torch.zeros_like(v) for k, v in made.weights.items() if k.endswith("num_batches_tracked")}
    assert same(found, replace(made, weights=made.weights | counters))  # ONNX has no use for the counters
    onnx.checker.check_model(onnx.load(resnet))


def test_equal_tensors_which_onnx_stores_once_are_read_back(tmp_path: Path) -> None:
    network = pruning.build("resnet20", 10)
    fresh = pruning.Checkpoint(network.state_dict(), {}, "resnet20", 10, {})
    pruning.save_onnx(fresh, tmp_path / "x")
    assert same(pruning.load(tmp_path / "x"), fresh)


def test_without_onnx_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"^ONNX needs onnx, which is not installed: pip install onnx onnxruntime$"):
        pruning.save_onnx(checkpoint(), tmp_path / "x")
    assert not [*tmp_path.iterdir()]


def test_a_file_that_computes_something_else_is_refused(resnet: Path) -> None:
    made = checkpoint()
    weights = made.weights | {"fc.bias": made.weights["fc.bias"] + 1}
    with pytest.raises(UserError, match="does not compute what PyTorch does: logits differ by 1"):
        exported.compare(replace(made, weights=weights), resnet.read_bytes())


@pytest.mark.parametrize("change", ["cut", "foreign", "mask", "type", "missing"])
def test_what_is_damaged_or_foreign_is_refused_in_one_line(change: str, resnet: Path, tmp_path: Path) -> None:
    content, path = resnet.read_bytes(), tmp_path / "x.onnx"
    model = onnx.load_from_string(content)
    if change == "foreign":
        del model.metadata_props[:]
    elif change == "mask":
        model.metadata_props[0].value = model.metadata_props[0].value.replace("layer1.0.conv1", "layer9")
    elif change == "type":
        model.graph.initializer[2].data_type = onnx.TensorProto.INT32
    elif change == "missing":
        del model.graph.initializer[2]
    path.write_bytes(content[:5000] if change == "cut" else model.SerializeToString())
    with pytest.raises(UserError) as caught:
        pruning.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
