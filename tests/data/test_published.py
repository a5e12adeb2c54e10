import gzip
import hashlib
import io
import pickle
import shutil
import socket
import tarfile
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from torchvision import datasets
from torchvision.datasets import utils

from pruning.data import Data, DatasetSettings, info, load_data
from pruning.errors import UserError

NAMES = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
CLASSES = {"cifar10": 10, "cifar100": 100}
LABELS = {"cifar10": "labels", "cifar100": "fine_labels"}


@pytest.fixture(autouse=True)
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The downloads that were tried; every one fails."""
    tried: list[str] = []

    def fail(url: str, *args: Any, **kwargs: Any) -> str:
        tried.append(url)
        print("downloading")
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(utils, "_get_redirect_url", fail)
    monkeypatch.setattr(utils, "_urlretrieve", fail)
    return tried


def contents(name: str) -> dict[str, bytes]:
    """The files of a small dataset in the official format."""
    dataset, files = NAMES[name], {}
    for number, (file, _) in enumerate(dataset.train_list + dataset.test_list):
        count = 2 + file.startswith("test")
        entry: dict[str, Any] = {"data": np.random.default_rng(number).integers(0, 256, (count, 3072), dtype=np.uint8)}
        entry |= {LABELS[name]: list(range(number, number + count))}
        entry |= {"coarse_labels": [7] * count} if name == "cifar100" else {}  # 7 is no fine label
        files[file] = pickle.dumps(entry, protocol=2)
    names = {dataset.meta["key"]: [f"class {i}" for i in range(CLASSES[name])], "coarse_label_names": ["x"]}
    return files | {dataset.meta["filename"]: pickle.dumps(names, protocol=2)}


@pytest.fixture(params=sorted(NAMES))
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A CIFAR whose md5 sums are those of the small files."""
    dataset, files = NAMES[request.param], contents(request.param)
    md5 = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(dataset, part, [[file, md5[file]] for file, _ in getattr(dataset, part)])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5[dataset.meta["filename"]]})
    return str(request.param)


@pytest.fixture
def packed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive in the cache directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for file, content in contents(name).items():
            member = tarfile.TarInfo(f"{NAMES[name].base_folder}/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(NAMES[name], "tgz_md5", hashlib.md5(buffer.getvalue()).hexdigest())
    path = tmp_path / NAMES[name].filename
    path.write_bytes(buffer.getvalue())
    return path


def check(name: str, value: Data) -> None:
    """Hold `value` to the small files, and the constants to what they always were."""
    entries = [pickle.loads(content) for content in contents(name).values()][:-1]
    pixels = np.concatenate([entry["data"] for entry in entries]).reshape(-1, 3, 32, 32)
    labels = [label for entry in entries for label in entry[LABELS[name]]]
    images = torch.cat([value.train.images, value.test.images])
    assert torch.equal(images, torch.from_numpy(pixels).permute(0, 2, 3, 1))
    assert value.train.images.is_contiguous()
    assert torch.cat([value.train.labels, value.test.labels]).tolist() == labels
    assert (len(value.test), value.classes) == (3, tuple(f"class {i}" for i in range(CLASSES[name])))
    means = {"cifar10": (0.4914, 0.4822, 0.4465), "cifar100": (0.5071, 0.4865, 0.4409)}
    stds = {"cifar10": (0.2470, 0.2435, 0.2616), "cifar100": (0.2673, 0.2564, 0.2762)}
    assert (value.mean, value.std) == (means[name], stds[name])


def test_from_the_archive_and_then_from_the_folder(
    name: str, packed: Path, attempts: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    check(name, load_data(name, cache=packed.parent))
    check(name, load_data(name, cache=packed.parent))  # as they are kept
    folder = packed.parent / NAMES[name].base_folder
    shutil.rmtree(packed.parent / "decoded")
    (folder / NAMES[name].test_list[0][0]).write_bytes(b"half unpacked")
    check(name, load_data(name, cache=packed.parent))
    packed.unlink()
    shutil.rmtree(packed.parent / "decoded")
    check(name, load_data(name, cache=packed.parent))
    assert attempts == []
    assert capfd.readouterr() == ("", "")
    assert socket.getdefaulttimeout() is None  # put back


def test_what_is_kept_is_mapped_and_made_again_if_it_is_damaged(name: str, packed: Path) -> None:
    first = load_data(name, cache=packed.parent)
    (kept,) = (packed.parent / "decoded").glob("*.safetensors")
    if (maps := Path("/proc/self/maps")).exists():
        assert str(kept) in maps.read_text()
    content = kept.read_bytes()
    for damaged in (content[:-1], bytes([*content[:-1], content[-1] ^ 1]), b"", content.replace(b"sha256", b"sha255")):
        kept.unlink()  # what is mapped stays what it is
        kept.write_bytes(damaged)
        check(name, load_data(name, cache=packed.parent))
        assert kept.read_bytes() == content
    check(name, first)
    for path in (packed, packed.parent / NAMES[name].base_folder):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    check(name, load_data(name, cache=packed.parent))  # it is all that is needed


def test_without_network_the_file_and_its_place_are_named(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="could not be downloaded") as caught:
        load_data(name, cache=Path("data"))
    text, file = str(caught.value), NAMES[name].filename
    assert f"put the {TITLES[name]} python archive {file} at {tmp_path / 'data' / file}" in text
    assert not any(part in text for part in ("\n", ".edu", "http"))
    assert capfd.readouterr() == ("", "")


def test_a_corrupt_archive_is_called_so_and_a_cache_that_cannot_be_written(
    name: str, packed: Path, attempts: list[str]
) -> None:
    (packed.parent / NAMES[name].base_folder).write_text("in the way")
    with pytest.raises(UserError, match="could not be unpacked"):
        load_data(name, cache=packed.parent)
    (packed.parent / NAMES[name].base_folder).unlink()
    assert attempts == []
    packed.write_bytes(packed.read_bytes()[:-5])
    text = rf"^{packed} is corrupt .* could not be downloaded again .* put the CIFAR-"
    with pytest.raises(UserError, match=text):
        load_data(name, cache=packed.parent)
    assert attempts


def test_a_download(name: str, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, **_: url)
    content, cache, calls = packed.read_bytes(), packed.parent / "new", list[tuple[str, int, int]]()
    monkeypatch.setattr(utils, "_urlretrieve", lambda url, file: Path(file).write_bytes(content))
    check(name, load_data(name, cache=cache, progress=lambda *call: calls.append(call)))
    assert calls == [(f"read {TITLES[name]}", 0, 1), (f"read {TITLES[name]}", 1, 1)]
    content, cache = b"login please", packed.parent / "wrong"
    with pytest.raises(UserError, match=f"{cache / packed.name} is corrupt"):
        load_data(name, cache=cache)


def idx(array: Any) -> bytes:
    """NumPy's uint8 in the format of MNIST."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A small Fashion-MNIST as it is downloaded and unpacked."""
    folder, arrays, resources = tmp_path / "FashionMNIST" / "raw", {}, []
    folder.mkdir(parents=True)
    for part, count in (("train", 5), ("t10k", 3)):
        arrays[part] = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files = {"images-idx3": arrays[part], "labels-idx1": np.arange(count, dtype=np.uint8)}
        for kind, array in files.items():
            (folder / f"{part}-{kind}-ubyte").write_bytes(idx(array))
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
            name = f"{part}-{kind}-ubyte.gz"
            resources.append((name, hashlib.md5((folder / name).read_bytes()).hexdigest()))
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    return arrays


def test_fashion_mnist_is_grey_in_three_channels(fashion: dict[str, Any], tmp_path: Path) -> None:
    value = load_data("fashion_mnist", cache=tmp_path)
    for part, split in (("train", value.train), ("t10k", value.test)):
        assert split.labels.tolist() == list(range(len(split)))
        assert np.array_equal(split.images.numpy(), np.repeat(fashion[part][..., None], 3, 3))
    assert (value.classes[0], len(value.classes), value.mean) == ("T-shirt/top", 10, (0.2860,) * 3)
    known = info(DatasetSettings(name="fashion_mnist"))
    assert (known.num_classes, known.size, sum(known.per_class or ())) == (10, (28, 28), 60_000)


def test_of_several_files_the_one_that_is_missing_or_damaged_is_named(
    fashion: dict[str, Any], tmp_path: Path, attempts: list[str]
) -> None:
    folder = tmp_path / "FashionMNIST" / "raw"
    (folder / "t10k-images-idx3-ubyte").unlink()
    load_data("fashion_mnist", cache=tmp_path)  # unpacked again
    assert attempts == []
    for file in folder.glob("t10k-labels*"):
        file.unlink()
    shutil.rmtree(tmp_path / "decoded")
    with pytest.raises(UserError, match=r"Fashion-MNIST is not in .* could not be downloaded") as caught:
        load_data("fashion_mnist", cache=tmp_path)
    name = "t10k-labels-idx1-ubyte.gz"
    assert str(caught.value).endswith(f"put the Fashion-MNIST file {name} at {folder / name}")
    (folder / name).write_bytes(b"half")
    with pytest.raises(UserError, match=f"{name} is corrupt"):
        load_data("fashion_mnist", cache=tmp_path)


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempts: list[str]) -> None:
    parts, listed = {}, {"extra": ["u", "extra_32x32.mat", "x"]}
    for part, count in (("train", 11), ("test", 4)):
        images = np.random.default_rng(count).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = np.arange(count)[:, None] % 10
        labels = np.where(labels == 0, 10, labels)  # the ten is the nought
        scipy.io.savemat(file := tmp_path / f"{part}_32x32.mat", {"X": images, "y": labels.astype(np.uint8)})
        listed[part] = ["u", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
        parts[part] = images
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    value = load_data("svhn", cache=tmp_path)
    for part, split in (("train", value.train), ("test", value.test)):
        assert split.labels.tolist() == [i % 10 for i in range(len(split))]
        assert np.array_equal(split.images.numpy(), parts[part].transpose(3, 0, 1, 2))
    assert (value.classes, attempts) == (tuple("0123456789"), [])
    assert sum(info(DatasetSettings(name="svhn")).per_class or ()) == 73_257
    file.unlink()
    shutil.rmtree(tmp_path / "decoded")
    with pytest.raises(UserError, match=r"put the SVHN file test_32x32.mat at "):
        load_data("svhn", cache=tmp_path)
