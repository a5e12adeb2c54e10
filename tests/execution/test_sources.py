"""What was planned is what is used: files and parents are verified when they are read, and say what they were fed."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruning import archs, checkpoints, data, masks, tracking
from pruning.env import Env
from pruning.errors import UserError
from pruning.execution.execute import run_step
from pruning.execution.stop import StopRequest
from pruning.files import write_json
from pruning.pipeline import plan
from pruning.runs import Run, Step, every
from pruning.training import measure
from tests.commands import Command
from tests.helpers import by_stage, result, slow
from tests.pipeline.made import composed

Small = tuple[str, ...]


@pytest.fixture
def runs(chain: Path, command: Command) -> dict[str, Run]:
    """The runs of a chain by stage, the last of which is gone."""
    shutil.copytree(chain, command.runs)
    found = by_stage(command.runs)
    shutil.rmtree(found.pop("finetune").path)
    return found


def make(env: Env, *overrides: str) -> tuple[list[Step], Callable[[Step], Any]]:
    """Return planned steps, as a SLURM task keeps them, and the function that makes one."""
    steps = plan.chain(composed(*overrides, "train.precision=fp32"), env)
    frozen = [Step.from_json(json.loads(json.dumps(step.to_json()))) for step in steps]
    return frozen, lambda step: run_step(step, env, tracking.Reporter(), StopRequest())


def other(path: Path) -> None:
    """Put another whole model in place of a run's."""
    found = checkpoints.load(path)
    found.weights["fc.bias"][0] += 1
    found.save(path)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "the step is done, but this file is missing"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:1000]), "is not the one that it made"),
    "empty": (lambda path: path.write_bytes(b""), "is not the one that it made"),
    "another": (other, "is not the one that it made"),
}


@slow
@pytest.mark.parametrize("how", BROKEN)
def test_a_parent_that_is_not_what_it_made_is_said_so_with_what_to_delete(
    command: Command, small: Small, runs: dict[str, Run], how: str
) -> None:
    damage, reason = BROKEN[how]
    damage(runs["prune"].model)
    done = command(*small, "finetune.epochs=1")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"error: {runs['prune'].model} is damaged: ")
    assert reason in done.stderr
    assert done.stderr.endswith(f"delete {runs['prune'].path} to make it again\n")
    assert "damaged" in command("stage=status").stdout
    assert "damaged" in command(*small, "finetune.epochs=1", "hydra/launcher=plan").stdout
    shutil.rmtree(runs["prune"].path)
    assert command(*small, "finetune.epochs=1").returncode == 0


def test_a_parent_that_was_changed_without_a_trace_is_found_when_it_is_read(
    command: Command, small: Small, runs: dict[str, Run]
) -> None:
    """Its time says nothing; its digest does."""
    before = runs["prune"].model.stat()
    other(runs["prune"].model)
    os.utime(runs["prune"].model, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = command(*small, "finetune.epochs=1")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "has changed: it is not the file that it was" in done.stderr
    assert f"delete {runs['prune'].path} to make it again" in done.stderr


def test_a_file_that_was_overwritten_after_planning_is_refused(small: Small, tmp_path: Path, folder: Path) -> None:
    env = Env(runs=tmp_path / "runs", data=tmp_path / "data", device="cpu")
    file = tmp_path / "model.pth.tar"
    torch.save({"state_dict": archs.build("resnet20", 3).state_dict()}, file)
    (pruned, tuned), run = make(env, *small, f"resume={file}")
    torch.save({"state_dict": archs.build("resnet20", 3).state_dict()}, file)
    with pytest.raises(UserError, match=f"^{file} has changed: .*; give the command again$"):
        run(pruned)
    file.unlink()
    with pytest.raises(UserError, match=f"^resume={file}: no such file"):
        run(pruned)
    assert not Run.for_step(pruned, env.runs).done
    with pytest.raises(UserError, match=r"which is not done; run its command again first$"):
        run(tuned)


def test_a_network_of_the_original_code_is_fed_as_it_was_trained(
    command: Command, small: Small, folder: Path, tmp_path: Path
) -> None:
    """Evaluated and finetuned with its own constants, not with those of the dataset, and all that follows says so."""
    network, file = archs.build("resnet20", 3), tmp_path / "model.pth.tar"
    archs.initialise(network, torch.Generator().manual_seed(0))
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, file)
    done = command(*small, f"resume={file}", "prune.percent=0.5", "finetune.epochs=1", "train.precision=fp32")
    assert (done.returncode, done.stderr) == (0, "")
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    wanted = {"mean": list(mean), "std": list(std)}
    runs = by_stage(command.runs)
    for run in runs.values():
        assert dict(result(run))["normalisation"] == checkpoints.load(run.model).normalisation == wanted
    pruned = checkpoints.load(runs["prune"].model)
    images = data.load_data(data.DatasetSettings(name="image_folder", root=str(folder)), cache=tmp_path / "data")
    fed = {
        name: measure(pruned.network(), value, "fp32")["test_loss"]
        for name, value in {"own": data_as(images, mean, std), "dataset's": images}.items()
    }
    assert result(runs["prune"])["test_loss"] == pytest.approx(fed["own"], rel=1e-4)
    assert fed["own"] != pytest.approx(fed["dataset's"], rel=1e-3)


def data_as(images: data.Data, mean: Any, std: Any) -> data.Data:
    return replace(images, mean=mean, std=std)


@pytest.mark.parametrize("name", ["conv1.weight", "bn1.bias", "layer1.0.bn2.running_var", "fc.weight"])
def test_what_is_not_finite_is_no_result(
    command: Command, small: Small, chain: Path, tmp_path: Path, name: str
) -> None:
    """However it came: a network that was not finite when loaded is refused before any work."""
    found = checkpoints.load(by_stage(chain)["train"].path)
    broken: dict[str, Tensor] = {k: v.clone() for k, v in found.weights.items()}
    broken[name].view(-1)[0] = float("nan")
    checkpoints.Checkpoint(broken, {}, "resnet20", 3, found.normalisation).save(tmp_path / "ours")
    torch.save(broken, tmp_path / "original.pth.tar")
    for file in ("ours", "original.pth.tar"):
        done = command(*small, f"resume={tmp_path / file}")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr == f"error: resume={tmp_path / file} has 1 values in {name} that are not finite\n"
    assert not command.runs.exists()


def test_a_training_that_diverges_in_its_last_update_is_no_result(command: Command, small: Small) -> None:
    diverging = ("train.epochs=1", "train.batch_size=48", "train.lr=1e30", "train.schedule=constant", "train.warmup=0")
    done = command(*small, *diverging)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: train.lr=1e+30 is too high: the training diverged, the test_loss is ")
    (run,) = every(command.runs)
    assert (run.done, run.rows()) == (False, [])


def test_a_result_that_is_not_finite_cannot_be_written(tmp_path: Path) -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "result.json", {"test_loss": value})
    assert [*tmp_path.iterdir()] == []


@slow
def test_masks_of_every_kind_go_through_a_chain(command: Command, small: Small, tmp_path: Path) -> None:
    """What a file's mask says is kept: a pruned linear layer stays pruned when convolutions are pruned."""
    network = archs.build("resnet20", 3)
    mask = masks.prune(network, 0.5, layers="linear")
    weights = masks.masked(checkpoints.snapshot(network), mask)
    checkpoints.Checkpoint(weights, mask, "resnet20", 3, {}).save(tmp_path / "half")
    done = command(*small, f"resume={tmp_path / 'half'}", "finetune.epochs=1")
    assert (done.returncode, done.stderr) == (0, "")
    for run in by_stage(command.runs).values():
        assert torch.equal(checkpoints.load(run.model).mask["fc.weight"], mask["fc.weight"])
