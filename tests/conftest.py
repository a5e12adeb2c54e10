"""Shared by all tests: a few small images, commands as real processes, and nothing that reaches W&B or the network."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="huggingface-")  # before datasets
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
from PIL import Image

from pruning.data import Data, Split
from tests.commands import Command, Server
from tests.helpers import CI

torch.set_num_threads(1)


SLOWEST = ("test_slurm", "test_chaos", "test_local", "test_execute", "test_agent", "test_wandb", "test_main")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow files first, so that two processes that take file after file end at about the same time."""
    # those who would wait for others to be done with SLURM come last
    order = {name: place for place, name in enumerate(SLOWEST)} | {"test_slurm_limits": len(SLOWEST) + 1}
    items.sort(key=lambda item: order.get(item.path.stem, len(SLOWEST)))
    for item in items:
        if not CI and any(item.get_closest_marker(tier) for tier in ("slow", "slurm")):
            item.add_marker(pytest.mark.skip(reason="of the slow tier: CI=true runs it too"))


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def no_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("NETRC", "/nonexistent")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_SILENT"):  # set by what is tested: not for the next test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)


def images(n: int, size: int, classes: int, stream: torch.Generator) -> Split:
    """Random images whose brightness says the class."""
    labels = torch.arange(n) % classes
    noise = torch.randint(0, 120, (n, size, size, 3), generator=stream)
    return Split((noise + labels[:, None, None, None] * (135 // classes)).to(torch.uint8), labels)


@pytest.fixture(scope="session")
def tiny() -> Data:
    """45 training and 23 test images of 8x8 in 3 classes, with crops and flips."""
    stream = torch.Generator().manual_seed(0)
    train, test = images(45, 8, 3, stream), images(23, 8, 3, stream)
    return Data(train, None, test, ("a", "b", "c"), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), pad=1, flip=True)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 48 training and 24 test images of 8x8 in 3 classes."""
    root = tmp_path_factory.mktemp("pictures")
    stream = torch.Generator().manual_seed(1)
    for part, n in (("train", 48), ("test", 24)):
        split = images(n, 8, 3, stream)
        for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            path = root / part / "abc"[label] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(image)).save(path)
    return root


@pytest.fixture(scope="session")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same kind of images as one file of arrays."""
    path = tmp_path_factory.mktemp("arrays") / "images.npz"
    parts = [images(n, 8, 3, torch.Generator().manual_seed(1)) for n in (48, 24)]
    train, test = ({"x": part.images.numpy(), "y": part.labels.numpy()} for part in parts)
    np.savez(path, x_train=train["x"], y_train=train["y"], x_test=test["x"], y_test=test["y"])
    return path


@pytest.fixture(scope="session")
def small(folder: Path) -> tuple[str, ...]:
    """Overrides for a chain that takes about a second: 3 and 2 epochs of 6 batches."""
    sizes = ("train.batch_size=8", "finetune.batch_size=8", "train.epochs=3", "finetune.epochs=2")
    return ("dataset=image_folder", f"dataset.root={folder}", "recipe=quick", *sizes)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def command(tmp_path: Path, server: Server) -> Command:
    """`command("seed=1")` runs main.py and returns what it printed; `.start(...)` returns at once."""
    return Command(tmp_path, server)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory, server: Server, small: tuple[str, ...]) -> Path:
    """The runs of `small` with one epoch of finetuning: to copy, not to change."""
    command = Command(tmp_path_factory.mktemp("chain"), server)
    done = command(*small, "finetune.epochs=1")
    assert (done.returncode, done.stderr) == (0, "")
    return command.runs
