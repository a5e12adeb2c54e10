"""A network from a file outside the project, and torchvision's: every way through which ours go."""

import shlex
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pruning
from pruning.runs import every
from tests.commands import Command, Server, undisturbed_runs
from tests.execution.test_published import at_work
from tests.helpers import by_stage, lasting, models, result, slow

ODD = Path(__file__).parents[1] / "networks" / "odd.py"
GRID = ("-m", "prune.percent=0.5,0.8", "seed=0,1")
SHORT = ("recipe=quick", "train.batch_size=8", "finetune.batch_size=8", "train.epochs=3", "finetune.epochs=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with somebody's network and images of 64x64 in three classes."""
    place = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(ODD, place / "mine.py")
    draw = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        for label, name in enumerate("abc"):
            (place / "images" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(80 * label, 80 * label + 90, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / "images" / part / name / f"{i}.png")
    return place


@pytest.fixture(scope="module")
def mine(place: Path) -> tuple[str, ...]:
    images = ("dataset=image_folder", f"dataset.root={place / 'images'}")
    return (*images, *SHORT, "arch._target_=Odd", f"arch.file={place / 'mine.py'}", "arch.width=4")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, server: Server, mine: tuple[str, ...]) -> Path:
    return undisturbed_runs(tmp_path_factory.mktemp("undisturbed"), server, *mine)


def test_what_is_left_behind_says_which_network_it_is(undisturbed: Path) -> None:
    run = by_stage(undisturbed)["finetune"]
    found = result(run)
    assert (found["arch"], found["prunable"]) == ("Odd", 108 + 72 + 64)
    settings = found.get("settings") or {}
    assert (settings["arch"], settings["arch._target_"], settings["arch.width"]) == ("Odd", "mine.Odd", 4)
    step = run.step()
    assert step is not None
    assert [code[:7] for code in step.code.values()] == ["sha256:"]
    logits = pruning.load(run.path).classifier()(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert logits.shape == (2, 3)


def test_the_same_again_is_reused_and_another_argument_is_another_network(
    undisturbed: Path, command: Command, mine: tuple[str, ...]
) -> None:
    shutil.copytree(undisturbed, command.runs)
    assert "reused" in command(*mine, "stage=train").stdout
    other = command(*mine, "stage=train", "arch.width=6", "train.epochs=1", "arch.name=wider")
    assert (other.returncode, other.stderr) == (0, "")
    assert any(run.path.name.startswith("train-image_folder-wider-") for run in every(command.runs))
    assert len({*every(command.runs)}) == len({*every(undisturbed)}) + 1


def test_the_command_that_a_report_gives_makes_more_of_the_same(undisturbed: Path, command: Command) -> None:
    shutil.copytree(undisturbed, command.runs)
    said = command("stage=report").stdout
    (line,) = [
        line for line in said.splitlines() if line.strip().startswith("python main.py") and "stage=finetune" in line
    ]
    *words, seeds = shlex.split(line)[3:]
    assert seeds == "seed=1,2"
    again = command("-m", *words, "seed=0", "hydra.launcher.workers=1")
    assert again.returncode == 0, again.stderr
    assert len({*every(command.runs)}) == len({*every(undisturbed)})


@slow
def test_killed_it_comes_to_the_same_bytes_also_where_layers_draw(
    undisturbed: Path, command: Command, mine: tuple[str, ...]
) -> None:
    for pattern in ("train-*", "finetune-*"):
        running = command.start(*mine)
        running.until(partial(at_work, command.runs, pattern))
        running.kill(signal.SIGKILL)
        running.wait()
    done = command(*mine)
    assert (done.returncode, done.stderr) == (0, "")
    assert lasting(command.runs) == lasting(undisturbed)


@slow
def test_workers_find_it_and_make_the_same_bytes(undisturbed: Path, command: Command, mine: tuple[str, ...]) -> None:
    done = command(*mine, *GRID, "hydra.launcher.workers=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 of 4 cells are done" in done.stdout
    made = models(command.runs)
    assert models(undisturbed).items() <= made.items()


@slow
@pytest.mark.parametrize("target", ["torchvision.models.resnet18", "torchvision.models.mobilenet_v2"])
@pytest.mark.parametrize("dataset", ["folder", "digits", "arrays"])
def test_those_of_torchvision_are_trained_pruned_finetuned_exported_and_loaded(
    target: str, dataset: str, command: Command, place: Path, npz: Path
) -> None:
    choices = {
        "folder": ("dataset=image_folder", f"dataset.root={place / 'images'}"),
        "arrays": ("dataset=arrays", f"dataset.file={npz}"),
    }
    images = choices.get(dataset, ("dataset=digits",))
    sizes = ("train.batch_size=128", "finetune.batch_size=128", "train.epochs=1", "finetune.epochs=1")
    whole = (*images, f"arch._target_={target}", "recipe=quick", *sizes, "prune.percent=0.8")
    done = command(*whole)
    assert (done.returncode, done.stderr) == (0, "")
    run = by_stage(command.runs)["finetune"]
    found = result(run)
    assert found["prunable"] - found["prunable_nonzero"] == round(0.8 * found["prunable"])
    exported = command(*whole, "stage=export")
    assert (exported.returncode, exported.stderr) == (0, "")
    size = {"folder": 64, "digits": 32, "arrays": 8}[dataset]
    pixels = torch.randint(256, (4, 3, size, size), dtype=torch.uint8)
    expected = pruning.load(run.path).classifier()(pixels)
    for name in ("model.sparse.safetensors", "model.onnx"):
        assert torch.equal(pruning.load(run.path / "export" / name).classifier()(pixels), expected)


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("arch.file=no.py", "arch.file=no.py: no such file"),
        ("arch._target_=Nothing", "has no function or class Nothing"),
        ("arch.wide=3", "cannot be built with wide=3"),
        ("arch._target_=without_classes", "has no parameter num_classes"),
        ("arch._target_=mlp", "cannot take the images of dataset=image_folder, which are 64x64 pixels"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_before_any_work(
    override: str, error: str, command: Command, mine: tuple[str, ...]
) -> None:
    others = [one for one in mine if override.partition("=")[0] not in one and one != "arch.width=4"]
    done = command(*others, override, "prune.layers=conv+linear")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert error in done.stderr
    assert not command.runs.exists()


def test_a_network_without_convolutions_says_what_to_prune(command: Command, place: Path) -> None:
    own = ("arch._target_=mlp", f"arch.file={place / 'mine.py'}", "recipe=quick", "train.epochs=1", "finetune.epochs=1")
    done = command(*own)
    assert done.stderr.endswith("so there is nothing to prune; give prune.layers=linear\n")
    assert not command.runs.exists()
    done = command(*own, "prune.layers=linear")
    assert (done.returncode, done.stderr) == (0, "")
