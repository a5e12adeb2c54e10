"""Tiny ImageNet, from small files in the layout of its zip."""

import hashlib
import shutil
import urllib.error
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.datasets import utils

from pruning.data import load_data, tiny_imagenet
from pruning.errors import UserError
from tests.data.test_folder import picture, pixels

CLASSES = ("n01443537", "n01629819", "n01641577")


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The zip in the cache directory; there is no network."""
    root, seed = tmp_path / "made" / tiny_imagenet.NAME, 0
    for name in CLASSES:
        (root / "train" / name / "images").mkdir(parents=True)
        for i in range(2):
            picture(seed, (64, 64)).save(
                root / "train" / name / "images" / f"{name}_{i}.JPEG", quality=100, subsampling=0
            )
            seed += 1
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for i, name in enumerate(reversed(CLASSES)):
        picture(100 + i, (64, 64)).convert("L").save(root / "val" / "images" / f"val_{i}.JPEG")
        lines.append(f"val_{i}.JPEG\t{name}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    cache = tmp_path / "cache"
    cache.mkdir()
    file = cache / f"{tiny_imagenet.NAME}.zip"
    with zipfile.ZipFile(file, "w") as packed:
        for path in sorted(root.rglob("*")):
            packed.write(path, path.relative_to(root.parent))
    shutil.rmtree(root)
    monkeypatch.setattr(tiny_imagenet, "MD5", hashlib.md5(file.read_bytes()).hexdigest())

    def fail(*_: Any, **__: Any) -> str:
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(utils, "_get_redirect_url", fail)
    monkeypatch.setattr(utils, "_urlretrieve", fail)
    return file


def test_it_is_unpacked_and_decoded_once(packed: Path) -> None:
    first = load_data("tiny_imagenet", cache=packed.parent)
    assert (first.classes, first.train.labels.tolist(), first.test.labels.tolist()) == (
        CLASSES,
        [0, 0, 1, 1, 2, 2],
        [2, 1, 0],
    )
    assert first.train.images.shape == (6, 64, 64, 3)
    difference = first.train.images[:1].int() - pixels(picture(0, (64, 64))).int()
    assert difference.abs().float().mean() < 3
    assert torch.equal(first.test.images[..., 0], first.test.images[..., 2])
    packed.unlink()
    again = load_data("tiny_imagenet", cache=packed.parent)
    assert torch.equal(again.train.images, first.train.images)


def test_what_is_missing_or_damaged_is_said(packed: Path) -> None:
    load_data("tiny_imagenet", cache=packed.parent)
    root = packed.parent / tiny_imagenet.NAME
    (root / "val" / "images" / "more.JPEG").touch()
    with pytest.raises(UserError, match=r"tiny-imagenet-200 is not as its zip makes it .* delete it"):
        load_data("tiny_imagenet", cache=packed.parent)
    shutil.rmtree(root)
    packed.write_bytes(b"half")
    with pytest.raises(UserError, match=r"200.zip is corrupt .* could not be downloaded .*; put it there"):
        load_data("tiny_imagenet", cache=packed.parent)
    packed.unlink()
    with pytest.raises(UserError, match=r"200.zip is not there and could not be downloaded"):
        load_data("tiny_imagenet", cache=packed.parent)
