"""Images as one NumPy file, under the names that people use; what is wrong with one is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruning.data import Data, DatasetSettings, Info, arrays, info, load_data
from pruning.errors import UserError

DRAW = np.random.default_rng(0)


def parts(shape: tuple[int, ...] = (6, 5), train: int = 9, test: int = 6, classes: int = 3) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part, count in (("train", train), ("test", test)):
        found[f"x_{part}"] = DRAW.integers(0, 256, (count, *shape), dtype=np.uint8)
        found[f"y_{part}"] = np.arange(count) % classes
    return found


def settings(path: Path, **others: Any) -> DatasetSettings:
    return DatasetSettings(name="arrays", file=str(path), **others)


def load(path: Path) -> Data:
    return load_data(settings(path), cache=path.parent / "kept")


def look(path: Path) -> Info:
    return info(settings(path), cache=path.parent / "kept")


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3), (3, 6, 5), (1, 6, 5)])
def test_grey_or_in_colour_channels_first_or_last(shape: tuple[int, ...], tmp_path: Path) -> None:
    given = parts(shape)
    np.savez_compressed(path := tmp_path / "x.npz", **given)
    data, known = load(path), look(path)
    images = given["x_train"]
    expected = images.transpose(0, 2, 3, 1) if shape[0] in (1, 3) else images
    expected = np.broadcast_to(expected.reshape(9, 6, 5, -1), (9, 6, 5, 3))
    assert torch.equal(data.train.images, torch.from_numpy(expected.copy()))
    assert data.train.labels.tolist() == given["y_train"].tolist()
    assert (known.num_classes, known.size, known.per_class) == (3, (6, 5), (3, 3, 3))
    assert np.allclose(data.mean, expected.mean((0, 1, 2)) / 255)
    assert np.allclose(data.std, expected.std((0, 1, 2)) / 255)
    assert data.classes == ("0", "1", "2")


def test_a_directory_of_arrays_is_the_same_and_is_mapped(tmp_path: Path) -> None:
    given = parts((6, 5, 3))
    np.savez(one := tmp_path / "x.npz", **given)
    (many := tmp_path / "x").mkdir()
    for name, array in given.items():
        np.save(many / f"{name}.npy", array)
    assert look(one) == look(many)
    images = load(many).train.images.numpy()
    assert np.array_equal(images, given["x_train"])
    if (maps := Path("/proc/self/maps")).exists():
        assert f"{many}/x_train.npy" in maps.read_text()
    np.save(many / "x_test.npy", given["x_test"] ^ 1)
    assert look(one) != look(many)
    (many / "y_train.npy").unlink()
    with pytest.raises(UserError, match=r"it has x_test, x_train, y_test, and not x_train and y_train"):
        look(many)


def test_what_an_npz_holds_is_kept_and_mapped_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen, real = tmp_path / "x.npz", list[Path](), arrays._arrays
    np.savez_compressed(path, **(given := parts()))

    def spy(file: Path) -> Any:
        seen.append(file)
        return real(file)

    monkeypatch.setattr(arrays, "_arrays", spy)
    first, known = load(path), look(path)
    (kept,) = (tmp_path / "kept" / "arrays").glob("*.safetensors")
    if (maps := Path("/proc/self/maps")).exists():
        assert str(kept) in maps.read_text()

    def again() -> tuple[Data, Info]:
        arrays._KEPT.clear()  # as in another process
        return load(path), look(path)

    data, same = again()
    assert (len(seen), same) == (1, known)
    assert torch.equal(data.train.images, first.train.images)
    content = kept.read_bytes()
    for damaged in (bytes([*content[:-1], content[-1] ^ 1]), b"half", content.replace(b"sha256", b"sha255")):
        kept.unlink()  # what is mapped stays what it is
        kept.write_bytes(damaged)
        assert again()[1] == known
        assert kept.read_bytes() == content
    np.savez_compressed(path, **(given | {"x_test": given["x_test"] ^ 1}))
    assert again()[1].fingerprint != known.fingerprint
    assert len(seen) == 5
    kept.unlink()
    kept.mkdir()  # in the way, so that nothing can be kept
    assert again()[1].fingerprint != known.fingerprint
    assert len(seen) == 6


@pytest.mark.parametrize(
    "names", ["x_train y_train x_test y_test", "train_images train_labels test_images test_labels"]
)
def test_the_names_that_people_use(names: str, tmp_path: Path) -> None:
    given = dict(zip(names.split(), parts().values(), strict=True))
    given = {name: value[:, None] if value.ndim == 1 else value for name, value in given.items()}  # as MedMNIST's
    np.savez(path := tmp_path / "x.npz", **given)
    assert len(load(path).test) == 6


def test_the_content_is_the_identity_and_not_how_or_where_it_is_stored(tmp_path: Path) -> None:
    given = parts()
    np.savez(tmp_path / "a.npz", **given)
    np.savez_compressed(tmp_path / "b.npz", **given)
    assert look(tmp_path / "a.npz").fingerprint == look(tmp_path / "b.npz").fingerprint
    for change in ("x_train", "y_test"):
        other = {name: value.copy() for name, value in given.items()}
        other[change].flat[0] ^= 1
        np.savez(tmp_path / "c.npz", **other)
        assert look(tmp_path / "c.npz").fingerprint != look(tmp_path / "a.npz").fingerprint


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"x_train": np.zeros((9, 6, 5), np.float32)}, "x_train must be uint8, 0 to 255, got float32"),
        ({"x_train": np.zeros((9, 6, 5, 4), np.uint8)}, "x_train must be (N, H, W)"),
        ({"x_test": np.zeros((6, 6, 6), np.uint8)}, "must have one size, they have 5x6 and 6x6"),
        ({"y_train": np.zeros(9)}, "y_train must be whole numbers (N,), got float64 [9]"),
        ({"y_train": np.zeros(8, int)}, "x_train has 9 images, y_train 8 labels"),
        ({"y_train": np.arange(9) % 3 - 1}, "y_train must be 0, 1, 2, ..., got -1 to 1"),
        ({"y_train": np.arange(9) % 3 * 2}, "no training image has 1"),
        ({"y_train": np.zeros(9, int)}, "training images have 1 classes"),
        ({"y_test": np.arange(6)}, "training images have 3 classes, test images the label 5"),
        ({"y_test": np.array([object()] * 6)}, "cannot be read"),
        ({"x_test": None}, "it has x_train, y_train, y_test, and not x_test and y_test or"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], error: str, tmp_path: Path) -> None:
    given = {name: value for name, value in (parts() | change).items() if value is not None}
    np.savez(path := tmp_path / "x.npz", **given)
    with pytest.raises(UserError) as caught:
        look(path)
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no arrays")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04torn")
    for name in ("text.npz", "one.npy", "torn.npz", "none.npz", "."):
        with pytest.raises(UserError, match="cannot be read"):
            look(tmp_path / name)
    with pytest.raises(UserError, match="file must be given for arrays"):
        info(DatasetSettings(name="arrays"))
