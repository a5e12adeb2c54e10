"""Sets of the Hugging Face hub, from small files that its library reads without a network."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.data import Data, DatasetSettings, Info, hub, info, load_data
from pruning.errors import UserError
from tests.commands import Command
from tests.data.test_folder import picture, pixels
from tests.helpers import by_stage, result, slow

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    hub.find.cache_clear()
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def made(
    place: Path, train: int = 6, test: int = 4, name: str = "validation", size: tuple[int, int] = (6, 4), **columns: Any
) -> Path:
    """A set of pictures in two parquet files, with two columns of numbers."""
    features = {
        "img": datasets.Image(),
        "fine_label": datasets.ClassLabel(names=["ant", "bee"]),
        "coarse": datasets.Value("int64"),
    }
    for seed, (part, count) in enumerate({"train": train, name: test}.items()):
        rows = {
            "img": [picture(10 * seed + i, size) for i in range(count)],
            "fine_label": [i % 2 for i in range(count)],
            "coarse": [7] * count,
        } | columns
        place.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, datasets.Features(features)).to_parquet(place / f"{part}.parquet")
    return place


def settings(place: Path | str, **others: Any) -> DatasetSettings:
    return DatasetSettings.read({"loader": "huggingface", "name": str(place), **others}, "dataset")


def load(place: Path | str, cache: Path, **others: Any) -> Data:
    return load_data(settings(place, **others), cache=cache)


def look(place: Path | str, cache: Path, **others: Any) -> Info:
    return info(settings(place, **others), cache=cache)


def test_images_and_classes_are_found_and_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = made(tmp_path / "set")
    data, known = load(place, tmp_path), look(place, tmp_path)
    assert torch.equal(data.train.images, pixels(*(picture(i) for i in range(6))))
    assert torch.equal(data.test.images, pixels(*(picture(10 + i) for i in range(4))))
    assert (data.train.labels.tolist(), data.classes) == ([0, 1] * 3, ("ant", "bee"))
    assert (known.num_classes, known.size, known.per_class) == (2, (4, 6), (3, 3))
    assert capfd.readouterr() == ("", "")
    assert len(list(tmp_path.glob("huggingface/[!.]*"))) == 2
    again = load(place, tmp_path)
    assert torch.equal(again.train.images, data.train.images)
    small = load(place, tmp_path, size=4)
    assert small.train.images.shape == (6, 4, 4, 3)


def test_the_content_is_the_identity(tmp_path: Path) -> None:
    one, same = (look(made(tmp_path / name), tmp_path).fingerprint for name in ("one", "same"))
    assert one == same
    assert look(made(tmp_path / "images", 7), tmp_path).fingerprint != one
    labels = made(tmp_path / "labels", 6, 6, fine_label=[1, 0, 0, 1, 1, 0])
    assert look(labels, tmp_path).fingerprint != look(made(tmp_path / "more", 6, 6), tmp_path).fingerprint != one
    coarse = made(tmp_path / "coarse", 6, 6, coarse=[0, 1] * 3)
    assert load(coarse, tmp_path, label="coarse").classes == ("0", "1")


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    for place, said in (
        (made(tmp_path / "no test", name="more"), r"has train, and not train with one of test, validation"),
        (
            made(tmp_path / "unlabelled", 4, fine_label=[0, -1, 0, 1]),
            r"fine_label must be 0 to 1, it has -1 \(-1: not l",
        ),
        (made(tmp_path / "one class", 4, fine_label=[0] * 4), r"no training image has the class bee"),
    ):
        with pytest.raises(UserError, match=said):
            look(place, tmp_path)
    place = made(tmp_path / "set")
    with pytest.raises(UserError, match=r"image=x: .* must have a column of images, it has img \(Image\), fine_label"):
        look(place, tmp_path, image="x")
    with pytest.raises(UserError, match=r"hub=no/such cannot be had"):
        look("no/such", tmp_path)
    with pytest.raises(UserError, match=r"hub must be given for huggingface"):
        info(DatasetSettings(name="huggingface"), cache=tmp_path)


@slow
def test_a_network_is_trained_on_it_and_the_place_decides_nothing(command: Command, tmp_path: Path) -> None:
    made(tmp_path / "set", 8, 6, "test", (16, 16))
    one = ("dataset=huggingface", "recipe=quick", "train.epochs=1", "finetune.epochs=1", "train.batch_size=4")
    done = command(*one, f"dataset.name={tmp_path / 'set'}")
    assert (done.returncode, done.stderr) == (0, "")
    first = result(by_stage(command.runs)["finetune"])["id"]
    (tmp_path / "set").rename(tmp_path / "moved")
    again = command(*one, f"dataset.name={tmp_path / 'moved'}")
    assert again.stdout.count("reused") == 3
    assert first in again.stdout
    said = command("stage=report").stdout  # the command that it gives makes the same again
    line = next(line for line in said.splitlines() if "python main.py" in line and "stage=finetune" in line)
    *words, seeds = shlex.split(line)[3:]
    assert seeds == "seed=1,2"
    assert f"dataset.name={tmp_path / 'set'}" in words
    (tmp_path / "moved").rename(tmp_path / "set")
    assert "; 3 done" in command("-m", *words, "seed=0", "hydra/launcher=plan").stdout
    (tmp_path / "set").rename(tmp_path / "moved")
    refused = command(*one)
    assert refused.stderr.startswith("error: dataset.name must be given for huggingface")
