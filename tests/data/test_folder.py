import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pruning import data
from pruning.data import decode, folder
from pruning.errors import UserError

CLASSES = ("ant", "bee", "cat dog")


def picture(seed: int, size: tuple[int, int] = (6, 4)) -> Image.Image:
    """A random RGB image; size is width, height."""
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def make(root: Path, train: int = 4, test: int = 2) -> Path:
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


def load(root: Path | str | None, cache: Path, **options: Any) -> data.Data:
    return data.load("image_folder", root=None if root is None else str(root), cache=cache, **options)


def fingerprint(root: Path, cache: Path) -> str:
    value = data.info("image_folder", root=str(root), cache=cache).fingerprint
    assert value is not None
    return value


def test_images_labels_and_classes(root: Path, cache: Path) -> None:
    value = load(root, cache, pad=1, flip=True)
    assert value.classes == CLASSES
    assert value.train.images.shape == (12, 4, 6, 3)
    assert value.test.images.shape == (6, 4, 6, 3)
    assert value.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert value.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    expected = torch.stack([torch.from_numpy(np.array(picture(seed))) for seed in range(18)])
    assert torch.equal(torch.cat([value.train.images, value.test.images]), expected)
    assert data.info("image_folder", root=str(root), cache=cache).num_classes == 3


def test_constants_are_exact_and_of_the_whole_training_part(root: Path, cache: Path) -> None:
    value = load(root, cache, val_fraction=0.5)
    assert value.val is not None
    assert len(value.val) == 6
    pixels = load(root, cache).train.images.double() / 255
    torch.testing.assert_close(torch.tensor(value.mean).double(), pixels.mean((0, 1, 2)))
    torch.testing.assert_close(torch.tensor(value.std).double(), pixels.std((0, 1, 2), correction=0))


def test_a_constant_channel_does_not_divide_by_zero(tmp_path: Path, cache: Path) -> None:
    for part in folder.PARTS:
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("RGB", (3, 3), (0, 255, 51)).save(tmp_path / part / "a" / "0.png")
    value = load(tmp_path, cache)
    assert value.mean == (0.0, 1.0, 0.2)
    images, _ = next(data.eval_batches(value, value.test))
    torch.testing.assert_close(images, torch.zeros(1, 3, 3, 3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_other_modes_become_rgb(root: Path, cache: Path, mode: str) -> None:
    image = picture(0).convert(mode)
    image.save(root / "train/ant/0.tiff")
    (root / "train/ant/0.png").unlink()
    expected = torch.from_numpy(np.array(image.convert("RGB")))
    assert torch.equal(load(root, cache).train.images[0], expected)


def test_more_than_8_bits_is_refused_not_clipped(root: Path, cache: Path) -> None:
    deep = Image.fromarray(np.full((4, 6), 5000, dtype=np.uint16))
    deep.save(root / "train/bee/0.png")
    with pytest.raises(UserError, match=r"train/bee/0\.png.*more than 8 bits"):
        load(root, cache)


def test_a_second_load_opens_no_image(root: Path, cache: Path, opened: list[Path]) -> None:
    first = load(root, cache)
    assert len(opened) > 18
    opened.clear()
    second = load(root, cache)
    assert opened == []
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.images, second.test.images)
    assert torch.equal(first.train.labels, second.train.labels)
    assert (first.mean, first.std, first.classes) == (second.mean, second.std, second.classes)
    assert not list(cache.rglob("*.tmp"))


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


def rename_a_file(root: Path) -> None:
    (root / "train/ant/0.png").rename(root / "train/ant/9.png")


def swap_classes(root: Path) -> None:
    (root / "train/ant").rename(root / "train/x")
    (root / "train/bee").rename(root / "train/ant")
    (root / "train/x").rename(root / "train/bee")


def remove_a_file(root: Path) -> None:
    (root / "test/ant/0.png").unlink()


@pytest.mark.parametrize("change", [flip_a_byte, rename_a_file, swap_classes, remove_a_file])
def test_any_change_changes_the_fingerprint(root: Path, cache: Path, change: Callable[[Path], None]) -> None:
    before = fingerprint(root, cache)
    change(root)
    assert fingerprint(root, cache) != before


def test_a_change_is_seen_by_load(root: Path, cache: Path) -> None:
    load(root, cache)
    picture(99).save(root / "train/ant/0.png")
    assert torch.equal(load(root, cache).train.images[0], torch.from_numpy(np.array(picture(99))))


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
    assert torch.equal(load(root, cache).train.images, first.train.images)
    assert torch.equal(load(root, cache).train.images, first.train.images)


def test_a_cache_that_cannot_be_written_is_done_without(root: Path, tmp_path: Path, opened: list[Path]) -> None:
    (tmp_path / "file").write_text("a file is no directory")
    for _ in range(2):
        opened.clear()
        assert len(load(root, tmp_path / "file").train) == 12
        assert opened


def test_progress_ends_at_the_total(root: Path, cache: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    load(root, cache, progress=lambda *call: calls.append(call))
    assert calls == [("fingerprint images", 18, 18), ("decode images", 18, 18)]


def test_many_files_stay_in_order(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "CHUNK", 3)
    made = make(tmp_path / "many", train=9)
    value = load(made, cache)
    expected = torch.stack([torch.from_numpy(np.array(picture(seed))) for seed in range(27)])
    assert torch.equal(value.train.images, expected)


def test_home_is_expanded(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(load("~/images", cache).train) == 12


def test_without_a_root(cache: Path) -> None:
    for call in (data.info, data.load):
        with pytest.raises(UserError, match=r"dataset\.root must be given for image_folder"):
            call("image_folder", root=None, cache=cache)


@pytest.mark.parametrize("missing", [".", "train", "test"])
def test_a_missing_directory_is_named(root: Path, cache: Path, missing: str) -> None:
    shutil.rmtree(root / missing)
    with pytest.raises(UserError, match=f"{(root / missing).resolve()} is not a directory"):
        load(root, cache)


@pytest.mark.parametrize("part", folder.PARTS)
def test_classes_must_match(root: Path, cache: Path, part: str) -> None:
    shutil.rmtree(root / part / "bee")
    with pytest.raises(UserError, match=f"{root / part} must have the classes of .*'bee' is missing"):
        load(root, cache)


def test_no_classes(root: Path, cache: Path) -> None:
    for name in CLASSES:
        shutil.rmtree(root / "train" / name)
    with pytest.raises(UserError, match=f"{root / 'train'} has no class folders"):
        load(root, cache)


@pytest.mark.parametrize("part", folder.PARTS)
def test_an_empty_class_is_named(root: Path, cache: Path, part: str) -> None:
    for file in (root / part / "cat dog").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=f"{root / part / 'cat dog'} has no images"):
        load(root, cache)


def test_a_folder_among_images_is_named(root: Path, cache: Path) -> None:
    (root / "train/ant/more").mkdir()
    with pytest.raises(UserError, match="train/ant/more must be an image file"):
        load(root, cache)


def test_a_broken_link_is_named(root: Path, cache: Path) -> None:
    (root / "train/ant/7.png").symlink_to(root / "gone.png")
    with pytest.raises(UserError, match=r"train/ant/7\.png must be an image file"):
        load(root, cache)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_corrupt_image_is_named(root: Path, cache: Path, content: bytes | None) -> None:
    file = root / "test/ant/1.png"
    file.write_bytes(file.read_bytes()[:50] if content is None else content)
    with pytest.raises(UserError, match=r"test/ant/1\.png is not a readable image") as caught:
        load(root, cache)
    assert "\n" not in str(caught.value)
    assert "BytesIO" not in str(caught.value)


def test_the_first_image_of_another_size_is_named(root: Path, cache: Path) -> None:
    picture(0, (6, 5)).save(root / "train/bee/2.png")
    picture(0, (9, 9)).save(root / "test/ant/0.png")
    with pytest.raises(UserError) as caught:
        load(root, cache)
    first, other = root / "train/ant/0.png", root / "train/bee/2.png"
    assert str(caught.value) == f"all images must have one size: {other} is 6x5, but {first} is 6x4"
