import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize

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


def fingerprint(root: Path, cache: Path) -> str | None:
    return info(asked(root), cache=cache).fingerprint


def refusal(root: Path | str | None, cache: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(root, cache)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(caught.value.parameter or "")
    return str(caught.value)


def test_images_labels_and_classes_and_exact_constants_of_the_whole_training_part(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    value, held = load("~/images", cache), load(root, cache, val_fraction=0.5)
    assert (value.classes, info(asked(root), cache=cache).num_classes) == (CLASSES, 3)
    assert value.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert value.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(torch.cat([value.train.images, value.test.images]), pixels(*map(picture, range(18))))
    train = value.train.images.double() / 255
    assert held.val is not None
    assert len(held.val) == 6
    for found, expected in ((held.mean, train.mean((0, 1, 2))), (held.std, train.std((0, 1, 2), correction=0))):
        torch.testing.assert_close(torch.tensor(found).double(), expected)


def test_a_constant_channel_does_not_divide_by_zero(root: Path, cache: Path) -> None:
    for file in root.glob("*/*/*"):
        Image.new("RGB", (3, 3), (0, 255, 51)).save(file)
    value = load(root, cache)
    assert value.mean == (0.0, 1.0, 0.2)
    images, _ = next(eval_batches(value, value.test))
    torch.testing.assert_close(images, torch.zeros(6, 3, 3, 3), rtol=0, atol=1e-6)


def test_other_modes_become_rgb(root: Path, cache: Path) -> None:
    shutil.rmtree(root / "train/ant")
    (root / "train/ant").mkdir()
    images = [picture(0).convert(mode) for mode in ("L", "RGBA", "P", "1", "CMYK")]
    for i, image in enumerate(images):
        image.save(root / f"train/ant/{i}.tiff")
    assert torch.equal(load(root, cache).train.images[:5], pixels(*images))


def test_a_second_load_opens_no_image_until_one_changes(root: Path, cache: Path, opened: list[Path]) -> None:
    first = load(root, cache)
    assert len(opened) > 18
    opened.clear()
    second = load(root, cache)
    assert opened == []
    for part, same in ((first.train, second.train), (first.test, second.test)):
        assert torch.equal(part.images, same.images)
        assert torch.equal(part.labels, same.labels)
    assert (first.mean, first.std, first.classes) == (second.mean, second.std, second.classes)
    assert torch.equal(first.test.labels, second.test.labels)
    assert {path.suffix for path in cache.rglob("*") if path.is_file()} == {".fingerprint", ".safetensors", ".lock"}
    picture(99).save(root / "train/ant/0.png")
    assert torch.equal(load(root, cache).train.images[:1], pixels(picture(99)))


def test_a_moved_folder_is_the_same_and_not_decoded_again(
    root: Path, cache: Path, tmp_path: Path, opened: list[Path]
) -> None:
    first, before = load(root, cache), fingerprint(root, cache)
    opened.clear()
    moved = root.rename(tmp_path / "elsewhere")
    assert fingerprint(moved, cache) == before
    load(moved, cache)
    assert opened == []
    copied = Path(shutil.copytree(moved, tmp_path / "copied", copy_function=shutil.copyfile))
    assert fingerprint(copied, cache) == fingerprint(copied, tmp_path / "another cache") == before
    opened.clear()
    assert torch.equal(load(copied, cache).train.images, first.train.images)
    assert opened == []


def test_any_change_changes_the_fingerprint_but_hidden_files_do_not_count(root: Path, cache: Path) -> None:
    seen, file = [fingerprint(root, cache)], root / "test/bee/1.png"
    status, content = file.stat(), bytearray(file.read_bytes())
    content[-20] ^= 1  # same size, same modification time: only the content differs
    while file.stat().st_ctime_ns == status.st_ctime_ns:  # the clock of some file systems ticks slowly
        file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    seen.append(fingerprint(root, cache))
    for old, new in (("ant", "x"), ("bee", "ant"), ("x", "bee")):
        (root / "train" / old).rename(root / "train" / new)
    seen.append(fingerprint(root, cache))
    (root / "train/ant/0.png").rename(root / "train/ant/9.png")
    seen.append(fingerprint(root, cache))
    (root / "test/ant/0.png").unlink()
    seen.append(fingerprint(root, cache))
    assert len(set(seen)) == 5
    for place in ("train/.DS_Store", "train/ant/.DS_Store", ".git", "train/classes.txt"):
        (root / place).write_text("not a class")
    (root / "test/.ipynb_checkpoints").mkdir()
    assert fingerprint(root, cache) == seen[-1]


def test_a_damaged_cache_is_made_again_and_one_that_cannot_be_written_is_done_without(
    root: Path, cache: Path, opened: list[Path]
) -> None:
    first = load(root, cache)
    for damage in (b"", b"nonsense"):
        for file in [f for f in cache.rglob("*") if f.is_file()]:
            file.unlink()  # what is mapped by those who run stays
            file.write_bytes(damage)
        for _ in range(2):
            assert torch.equal(load(root, cache).train.images, first.train.images)
    for _ in range(2):
        opened.clear()
        assert len(load(root, file).train) == 12  # a file is no directory
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


def test_a_missing_root_or_directory_is_named(root: Path, cache: Path) -> None:
    text = "root must be given for image_folder: the directory with train/CLASS/* and test/CLASS/*"
    assert refusal(None, cache) == text
    for missing in ("test", "train", "."):
        shutil.rmtree(root / missing)
        text = f"root must have train/CLASS/* and test/CLASS/*: {(root / missing).resolve()} is not a directory"
        assert refusal(root, cache) == text


@pytest.mark.parametrize(("part", "other"), [folder.PARTS, folder.PARTS[::-1]])
def test_classes_must_match_and_have_images(root: Path, cache: Path, part: str, other: str) -> None:
    for file in (root / part / "cat dog").iterdir():
        file.unlink()
    assert refusal(root, cache) == f"{root / part / 'cat dog'} has no images; put some there or remove the class"
    shutil.rmtree(root / part / "bee")
    assert refusal(root, cache) == f"{root / part} must have the classes of {root / other}, 'bee' is missing"
    for name in ("ant", "cat dog"):
        shutil.rmtree(root / part / name)
    assert refusal(root, cache).startswith(f"{root / part} has no class folders; images belong in ")


def test_what_is_no_image_is_named(root: Path, cache: Path) -> None:
    (root / "train/bee/more").mkdir()
    assert refusal(root, cache) == f"{root / 'train/bee/more'} must be an image file"
    (root / "train/ant/7.png").symlink_to(root / "gone.png")
    reason = "No such file or directory"
    assert refusal(root, cache) == f"{root / 'train/ant/7.png'} must be an image file: {reason}"
    shutil.rmtree(root / "train/bee/more")
    (root / "train/ant/7.png").unlink()
    file = root / "test/ant/1.png"
    for content in (file.read_bytes()[:50], b"", b"no image"):
        file.write_bytes(content)
        text = refusal(root, cache)
        assert text.startswith(f"{file} is not a readable image: ")
        assert "BytesIO" not in text


def test_more_than_8_bits_and_the_first_image_of_another_size_are_refused(root: Path, cache: Path) -> None:
    Image.fromarray(np.full((4, 6), 5000, dtype=np.uint16)).save(root / "train/bee/0.png")
    assert re.search(r"train/bee/0\.png.*more than 8 bits", refusal(root, cache))  # and not clipped
    first, file = root / "train/ant/0.png", root / "train/bee/0.png"
    picture(0, (6, 5)).save(file)
    picture(0, (9, 9)).save(root / "test/ant/0.png")
    assert refusal(root, cache) == f"all images must have one size: {file} is 6x5, but {first} is 6x4"


def test_images_of_any_size_are_brought_to_one(tmp_path: Path, cache: Path) -> None:
    """As torchvision's Resize and CenterCrop do it; each size is decoded once, and another one is another dataset."""
    sizes = [(30, 20), (20, 31), (12, 12), (8, 40)]
    pictures = [picture(i, size) for i, size in enumerate(sizes)]
    for part in ("train", "test"):
        for label, name in enumerate("ab"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in (0, 1):
                pictures[2 * label + i].save(tmp_path / part / name / f"{i}.png")
    assert "all images must have one size" in refusal(tmp_path, cache)
    for size in (16, 9):
        data = load(tmp_path, cache, size=size)
        expected = Compose([Resize(size), CenterCrop(size)])
        assert torch.equal(data.train.images, pixels(*map(expected, pictures)))
        assert torch.equal(load(tmp_path, cache, size=size).test.images, data.train.images)
        assert info(asked(tmp_path, size=size), cache=cache).size == (size, size)
    with pytest.raises(UserError, match="size must be >= 1, got 0"):
        asked(tmp_path, size=0)
