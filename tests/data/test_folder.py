import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pruning.data import Data, DatasetSettings, decode, eval_batches, folder, info, load_data
from pruning.errors import UserError

CLASSES = ("ant", "bee", "cat dog")


def picture(seed: int, size: tuple[int, int] = (6, 4)) -> Image.Image:
    """A random RGB image; size is width, height."""
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def pixels(*images: Image.Image) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(image.convert("RGB"))) for image in images])


def make(root: Path, train: int = 4, test: int = 2) -> Path:
    """Fill `root` with pictures 0, 1, 2, ..., class by class."""
    seed = 0
    for part, count in (("train", train), ("test", test)):
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                picture(seed).save(root / part / name / f"{i}.png")
                seed += 1
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "images")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The image files read so far."""
    files: list[Path] = []
    original = decode.read

    def spy(path: Path) -> bytes:
        files.append(path)
        return original(path)

    monkeypatch.setattr(decode, "read", spy)
    monkeypatch.setattr(folder, "read", spy)
    return files


def asked(root: Path | str | None, **settings: Any) -> DatasetSettings:
    return DatasetSettings(name="image_folder", root=None if root is None else str(root), **settings)


def load(root: Path | str | None, cache: Path, **settings: Any) -> Data:
    return load_data(asked(root, **settings), cache=cache)


def fingerprint(root: Path, cache: Path) -> str:
    value = info(asked(root), cache=cache).fingerprint
    assert value is not None
    return value


def refusal(root: Path | str | None, cache: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(root, cache)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(caught.value.parameter or "")
    return str(caught.value)


def test_images_labels_and_classes(root: Path, cache: Path) -> None:
    value = load(root, cache, pad=1, flip=True)
    assert value.classes == CLASSES
    assert value.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert value.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(torch.cat([value.train.images, value.test.images]), pixels(*map(picture, range(18))))
    assert info(asked(root), cache=cache).num_classes == 3


def test_constants_are_exact_and_of_the_whole_training_part(root: Path, cache: Path) -> None:
    value = load(root, cache, val_fraction=0.5)
    assert value.val is not None
    assert len(value.val) == 6
    train = load(root, cache).train.images.double() / 255
    torch.testing.assert_close(torch.tensor(value.mean).double(), train.mean((0, 1, 2)))
    torch.testing.assert_close(torch.tensor(value.std).double(), train.std((0, 1, 2), correction=0))


def test_a_constant_channel_does_not_divide_by_zero(tmp_path: Path, cache: Path) -> None:
    for part in folder.PARTS:
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("RGB", (3, 3), (0, 255, 51)).save(tmp_path / part / "a" / "0.png")
    value = load(tmp_path, cache)
    assert value.mean == (0.0, 1.0, 0.2)
    images, _ = next(eval_batches(value, value.test))
    torch.testing.assert_close(images, torch.zeros(1, 3, 3, 3), rtol=0, atol=1e-6)


def test_other_modes_become_rgb(root: Path, cache: Path) -> None:
    images = [picture(0).convert(mode) for mode in ("L", "RGBA", "P", "1", "CMYK")]
    for i, image in enumerate(images):
        image.save(root / f"train/ant/{i}.tiff")
        (root / f"train/ant/{i}.png").unlink(missing_ok=True)
    assert torch.equal(load(root, cache).train.images[:5], pixels(*images))


def test_a_second_load_opens_no_image(root: Path, cache: Path, opened: list[Path]) -> None:
    first = load(root, cache)
    assert len(opened) > 18
    opened.clear()
    second = load(root, cache)
    assert opened == []
    for part in ("train", "test"):
        assert torch.equal(getattr(first, part).images, getattr(second, part).images)
        assert torch.equal(getattr(first, part).labels, getattr(second, part).labels)
    assert (first.mean, first.std, first.classes) == (second.mean, second.std, second.classes)
    assert {path.suffix for path in cache.rglob("*") if path.is_file()} == {".fingerprint", ".safetensors"}


def test_a_moved_folder_is_the_same_and_not_decoded_again(
    root: Path, cache: Path, tmp_path: Path, opened: list[Path]
) -> None:
    first = load(root, cache)
    before = fingerprint(root, cache)
    opened.clear()
    moved = root.rename(tmp_path / "elsewhere")
    assert fingerprint(moved, cache) == before
    load(moved, cache)
    assert opened == []
    copied = Path(shutil.copytree(moved, tmp_path / "copied", copy_function=shutil.copyfile))
    assert fingerprint(copied, cache) == before
    opened.clear()
    assert torch.equal(load(copied, cache).train.images, first.train.images)
    assert opened == []
    assert fingerprint(copied, tmp_path / "another cache") == before


def flip_a_byte(root: Path) -> None:
    """Same size, same modification time: only the content differs."""
    file = root / "test/bee/1.png"
    status, content = file.stat(), bytearray(file.read_bytes())
    content[-20] ^= 1
    while file.stat().st_ctime_ns == status.st_ctime_ns:  # the clock of some file systems ticks slowly
        file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def swap_classes(root: Path) -> None:
    for old, new in (("ant", "x"), ("bee", "ant"), ("x", "bee")):
        (root / "train" / old).rename(root / "train" / new)


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": flip_a_byte,
    "classes": swap_classes,
    "name": lambda root: (root / "train/ant/0.png").rename(root / "train/ant/9.png"),
    "number": lambda root: (root / "test/ant/0.png").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_changes_the_fingerprint(root: Path, cache: Path, change: str) -> None:
    before = fingerprint(root, cache)
    CHANGES[change](root)
    assert fingerprint(root, cache) != before


def test_a_change_is_seen_by_load(root: Path, cache: Path) -> None:
    load(root, cache)
    picture(99).save(root / "train/ant/0.png")
    assert torch.equal(load(root, cache).train.images[:1], pixels(picture(99)))


def test_hidden_files_do_not_count(root: Path, cache: Path) -> None:
    before = fingerprint(root, cache)
    for place in ("train/.DS_Store", "train/ant/.DS_Store", ".git"):
        (root / place).write_text("")
    (root / "test/.ipynb_checkpoints").mkdir()
    (root / "train/classes.txt").write_text("not a class")
    assert fingerprint(root, cache) == before


@pytest.mark.parametrize("damage", [b"", b"nonsense"])
def test_a_damaged_cache_is_made_again(root: Path, cache: Path, damage: bytes) -> None:
    first = load(root, cache)
    for file in [f for f in cache.rglob("*") if f.is_file()]:
        file.write_bytes(damage)
    for _ in range(2):
        assert torch.equal(load(root, cache).train.images, first.train.images)


def test_a_cache_that_cannot_be_written_is_done_without(root: Path, tmp_path: Path, opened: list[Path]) -> None:
    (tmp_path / "file").write_text("a file is no directory")
    for _ in range(2):
        opened.clear()
        assert len(load(root, tmp_path / "file").train) == 12
        assert opened


def test_many_files_stay_in_order_and_progress_ends_at_the_total(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "CHUNK", 4)
    calls: list[tuple[str, int, int]] = []
    value = load_data(asked(make(tmp_path / "many", 9)), cache=cache, progress=lambda *call: calls.append(call))
    assert torch.equal(value.train.images, pixels(*map(picture, range(27))))
    done = [*range(4, 33, 4), 33]
    assert calls == [(label, i, 33) for label in ("fingerprint images", "decode images") for i in done]


def test_home_is_expanded(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(load("~/images", cache).train) == 12


def test_a_root_must_be_given(cache: Path) -> None:
    text = "root must be given for image_folder: the directory with train/CLASS/* and test/CLASS/*"
    assert refusal(None, cache) == text
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        info(asked(None), cache=cache)


@pytest.mark.parametrize("missing", [".", "train", "test"])
def test_a_missing_directory_is_named(root: Path, cache: Path, missing: str) -> None:
    shutil.rmtree(root / missing)
    text = f"root must have train/CLASS/* and test/CLASS/*: {(root / missing).resolve()} is not a directory"
    assert refusal(root, cache) == text


@pytest.mark.parametrize("part", folder.PARTS)
def test_classes_must_match_and_have_images(root: Path, cache: Path, part: str) -> None:
    for file in (root / part / "cat dog").iterdir():
        file.unlink()
    assert refusal(root, cache) == f"{root / part / 'cat dog'} has no images; put some there or remove the class"
    shutil.rmtree(root / part / "bee")
    other = {"train": "test", "test": "train"}[part]
    assert refusal(root, cache) == f"{root / part} must have the classes of {root / other}, 'bee' is missing"
    for name in ("ant", "cat dog"):
        shutil.rmtree(root / part / name)
    assert refusal(root, cache).startswith(f"{root / part} has no class folders; images belong in ")


def test_what_is_no_file_is_named(root: Path, cache: Path) -> None:
    (root / "train/bee/more").mkdir()
    assert refusal(root, cache) == f"{root / 'train/bee/more'} must be an image file"
    (root / "train/ant/7.png").symlink_to(root / "gone.png")
    assert refusal(root, cache) == f"{root / 'train/ant/7.png'} must be an image file"


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_corrupt_image_is_named(root: Path, cache: Path, content: bytes | None) -> None:
    file = root / "test/ant/1.png"
    file.write_bytes(file.read_bytes()[:50] if content is None else content)
    text = refusal(root, cache)
    assert text.startswith(f"{file} is not a readable image: ")
    assert "BytesIO" not in text


def test_more_than_8_bits_is_refused_not_clipped(root: Path, cache: Path) -> None:
    Image.fromarray(np.full((4, 6), 5000, dtype=np.uint16)).save(root / "train/bee/0.png")
    assert re.search(r"train/bee/0\.png.*more than 8 bits", refusal(root, cache))


def test_the_first_image_of_another_size_is_named(root: Path, cache: Path) -> None:
    picture(0, (6, 5)).save(root / "train/bee/2.png")
    picture(0, (9, 9)).save(root / "test/ant/0.png")
    first, other = root / "train/ant/0.png", root / "train/bee/2.png"
    assert refusal(root, cache) == f"all images must have one size: {other} is 6x5, but {first} is 6x4"
