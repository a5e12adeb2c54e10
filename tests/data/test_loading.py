import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.data import DATASETS, Data, DatasetSettings, info, load_data, room
from pruning.errors import UserError
from tests.commands import Command
from tests.helpers import lasting

NOWHERE = Path("/nonexistent")


def digits(resident_gb: float | None = None, **settings: Any) -> Data:
    return load_data(DatasetSettings(name="digits", **settings), cache=NOWHERE, resident_gb=resident_gb)


def test_digits_are_scikit_learns_with_the_constants_of_the_training_images() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    value = digits()
    assert (len(value.train), len(value.test), value.classes) == (1437, 360, tuple("0123456789"))
    assert torch.bincount(value.test.labels).tolist() == [36] * 10
    images = torch.cat([value.train.images, value.test.images])
    assert (images.shape, images.dtype) == ((1797, 32, 32, 3), torch.uint8)
    assert torch.equal(images[..., 0], images[..., 2])
    small = images[:, ::4, ::4, 0]
    assert torch.equal(images[:, 3::4, 3::4, 0], small)
    ours = zip(small.flatten(1).tolist(), torch.cat([value.train.labels, value.test.labels]).tolist(), strict=True)
    theirs = zip((pixels * 255 / 16).round().astype(int).tolist(), labels.tolist(), strict=True)
    assert sorted(ours) == sorted(theirs)
    train = value.train.images.double() / 255
    for found, expected in [(value.mean, train.mean((0, 1, 2))), (value.std, train.std((0, 1, 2), correction=0))]:
        torch.testing.assert_close(torch.tensor(found).double(), expected, rtol=0, atol=5e-5)


def test_digits_do_not_need_the_slow_import() -> None:
    code = (
        "import sys; from pruning import load_data; load_data('digits');"
        "print([m for m in ('sklearn', 'torchvision', 'PIL', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs scikit-learn"):
        digits()


def test_augmentation_is_as_asked_and_none_for_a_name_alone() -> None:
    value = digits(pad=2, flip=True)
    assert (value.pad, value.flip, value.val) == (2, True, None)
    plain = load_data("digits")
    assert (plain.pad, plain.flip, plain.val) == (0, False, None)
    assert torch.equal(plain.train.images, value.train.images)
    moved = load_data("digits", device="meta")
    assert {t.device.type for split in (moved.train, moved.test) for t in (split.images, split.labels)} == {"meta"}


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.99])
def test_validation_is_balanced_fixed_and_apart(fraction: float) -> None:
    whole, value = digits(), digits(val_fraction=fraction)
    val, again = value.val, digits(val_fraction=fraction).val
    assert val is not None
    assert again is not None
    sizes = torch.bincount(whole.train.labels).tolist()
    assert torch.bincount(val.labels).tolist() == [round(fraction * size) for size in sizes]
    for one, other in ((val, again), (value.test, whole.test)):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    train, held, every = (
        list(zip(split.images.flatten(1).tolist(), split.labels.tolist(), strict=True))
        for split in (value.train, val, whole.train)
    )
    assert (sorted(train + held), value.mean) == (sorted(every), whole.mean)


def test_what_does_not_fit_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 1797 * 32 * 32 * 3
    for limit, free, stays in [(None, 2 * size, False), (None, 2 * size - 2, True), (1.0, 0, False), (0, 1e15, True)]:
        monkeypatch.setattr(room, "free", lambda device, free=free: free)
        data = digits(val_fraction=0.2, resident_gb=limit)
        assert data.val
        assert {split.rows is not None for split in (data.train, data.val, data.test)} == {stays}


def test_there_is_memory() -> None:
    assert 0 < room.free(torch.device("cpu")) < 1e16


def test_the_bits_of_a_run_do_not_depend_on_where_the_images_are(command: Command) -> None:
    one = ("recipe=quick", "train.epochs=1", "dataset.val_fraction=0.2", "stage=train", "arch=resnet20")
    first = command(*one)
    kept = lasting(command.runs)
    again = command(*one, "env.resident_gb=0", "redo=train")
    assert (first.returncode, again.returncode) == (0, 0)
    assert lasting(command.runs) == kept


def test_val_fraction_must_leave_something_on_both_sides() -> None:
    for fraction, text in [
        (0.999, r"^val_fraction=0.999 holds out all 1.. training images of class 0;"),
        (0.0001, "^val_fraction=0.0001 holds out no image at all"),
    ]:
        with pytest.raises(UserError, match=text) as caught:
            digits(val_fraction=fraction)
        assert caught.value.parameter == "val_fraction"


def test_wrong_settings_are_refused() -> None:
    names = "arrays, cifar10, cifar100, digits, fashion_mnist, huggingface, image_folder, svhn, tiny_imagenet"
    for key, value, text in (
        ("val_fraction", -0.1, "must be in [0, 1), got -0.1"),
        ("val_fraction", 1, "must be in [0, 1), got 1"),
        ("val_fraction", 10, "must be in [0, 1), got 10; did you mean 0.1?"),
        ("pad", -1, "must be >= 0, got -1"),
        ("pad", 1.5, "must be a whole number, got 1.5"),
        ("flip", 1, "must be true or false, got 1"),
        ("name", "cifar-10", f"must be one of {names}, got 'cifar-10'; did you mean ci"),
        ("name", None, "is not set"),
    ):
        with pytest.raises(UserError, match=f"^dataset.{key} {re.escape(text)}"):
            DatasetSettings.read({"name": "digits"} | {key: value}, "dataset")


def test_what_is_known_without_the_images() -> None:
    assert list(DATASETS) == [
        "digits",
        "cifar10",
        "cifar100",
        "fashion_mnist",
        "svhn",
        "tiny_imagenet",
        "image_folder",
        "arrays",
        "huggingface",
    ]
    for name, count in {"digits": 10, "cifar10": 10, "cifar100": 100}.items():
        found = info(DatasetSettings(name=name), cache=NOWHERE)
        assert (found.num_classes, found.fingerprint, found.size) == (count, None, (32, 32))
        if name == "digits":  # of the others the archive is not here
            train = load_data(name).train
            assert found.per_class == tuple(torch.bincount(train.labels).tolist())
        else:
            assert found.per_class == (50_000 // count,) * count
    with pytest.raises(UserError, match=r"^name must be one of .* did you mean cifar10\?"):
        load_data("cifar-10")
