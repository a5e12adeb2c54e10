import hashlib
import io
import pickle
import socket
import tarfile
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets
from torchvision.datasets import utils

from pruning.data import Data, DatasetSettings, load_data
from pruning.errors import UserError

NAMES = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
COARSE = 7  # a coarse label that no fine label below equals


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


def deliver(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every download succeed with `content`."""
    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(utils, "_urlretrieve", lambda url, file: Path(file).write_bytes(content))


def contents(name: str) -> dict[str, bytes]:
    """The files of a small dataset in the official format: two training images per file, three test images."""
    fine = name == "cifar100"
    train = ["train"] if fine else [f"data_batch_{i}" for i in range(1, 6)]
    files = {}
    for number, (file, count) in enumerate([(f, 2) for f in train] + [("test" if fine else "test_batch", 3)]):
        pixels = np.random.default_rng(number).integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = [number + i for i in range(count)]
        entry: dict[str, Any] = {"data": pixels, "fine_labels" if fine else "labels": labels}
        if fine:
            entry["coarse_labels"] = [COARSE] * count
        files[file] = pickle.dumps(entry, protocol=2)
    names = [f"class {i}" for i in range(100 if fine else 10)]
    meta = {"fine_label_names": names, "coarse_label_names": ["x"]} if fine else {"label_names": names}
    files["meta" if fine else "batches.meta"] = pickle.dumps(meta, protocol=2)
    return files


def archive(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for file, content in contents(name).items():
            member = tarfile.TarInfo(f"{NAMES[name].base_folder}/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


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
    content = archive(name)
    monkeypatch.setattr(NAMES[name], "tgz_md5", hashlib.md5(content).hexdigest())
    path = tmp_path / NAMES[name].filename
    path.write_bytes(content)
    return path


def unpack(name: str, cache: Path) -> Path:
    folder = cache / NAMES[name].base_folder
    folder.mkdir(parents=True)
    for file, content in contents(name).items():
        (folder / file).write_bytes(content)
    return folder


def check(name: str, value: Data) -> None:
    """Hold `value` to the small files."""
    entries = [pickle.loads(content) for content in contents(name).values()][:-1]
    pixels = np.concatenate([entry["data"] for entry in entries]).reshape(-1, 3, 32, 32)
    key = "fine_labels" if name == "cifar100" else "labels"
    labels = [label for entry in entries for label in entry[key]]
    images = torch.cat([value.train.images, value.test.images])
    assert torch.equal(images, torch.from_numpy(pixels).permute(0, 2, 3, 1))
    assert value.train.images.is_contiguous()
    assert torch.cat([value.train.labels, value.test.labels]).tolist() == labels
    assert len(value.test) == 3
    assert value.classes == tuple(f"class {i}" for i in range(100 if name == "cifar100" else 10))


def test_from_the_folder_with_its_own_constants(name: str, tmp_path: Path, attempts: list[str]) -> None:
    unpack(name, tmp_path)
    value = load_data(DatasetSettings(name=name, pad=4, flip=True), cache=tmp_path)
    check(name, value)
    means = {"cifar10": (0.4914, 0.4822, 0.4465), "cifar100": (0.5071, 0.4865, 0.4409)}
    stds = {"cifar10": (0.2470, 0.2435, 0.2616), "cifar100": (0.2673, 0.2564, 0.2762)}
    assert (value.mean, value.std, value.pad, value.flip) == (means[name], stds[name], 4, True)
    assert attempts == []
    assert socket.getdefaulttimeout() is None  # put back


def test_from_the_archive(name: str, packed: Path, attempts: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    check(name, load_data(name, cache=packed.parent))
    folder = packed.parent / NAMES[name].base_folder
    (folder / NAMES[name].test_list[0][0]).write_bytes(b"half unpacked")
    check(name, load_data(name, cache=packed.parent))
    packed.unlink()
    check(name, load_data(name, cache=packed.parent))
    assert attempts == []
    assert capfd.readouterr() == ("", "")


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


def test_a_corrupt_archive_is_called_so(name: str, packed: Path, attempts: list[str]) -> None:
    packed.write_bytes(packed.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"is corrupt .* could not be downloaded again .* put the CIFAR-") as caught:
        load_data(name, cache=packed.parent)
    assert str(packed) in str(caught.value)
    assert attempts


def test_a_download(name: str, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(packed.read_bytes(), monkeypatch)
    calls: list[tuple[str, int, int]] = []
    check(name, load_data(name, cache=packed.parent / "new", progress=lambda *call: calls.append(call)))
    assert calls == [(f"read {TITLES[name]}", 0, 1), (f"read {TITLES[name]}", 1, 1)]


def test_a_download_of_the_wrong_content(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(b"login please", monkeypatch)
    with pytest.raises(UserError, match=f"{tmp_path / NAMES[name].filename} is corrupt"):
        load_data(name, cache=tmp_path)


def test_a_cache_that_cannot_be_written(name: str, packed: Path) -> None:
    (packed.parent / NAMES[name].base_folder).write_text("in the way")
    with pytest.raises(UserError, match="could not be unpacked"):
        load_data(name, cache=packed.parent)
