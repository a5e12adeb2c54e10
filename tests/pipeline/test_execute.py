import json
import re
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning import archs
from pruning.runs import Run, every
from tests.commands import Command, Running

Small = tuple[str, ...]
FIELDS = [
    *("id", "stage", "parent", "dataset", "arch", "seed", "percent", "sparsity"),
    *("test_top1", "test_top5", "test_loss", "train_loss"),
    *("params", "params_nonzero", "prunable", "prunable_nonzero", "macs", "macs_nonzero"),
    *("epochs", "seconds", "before"),
]
TIMES = ("seconds", "images_per_second")


def made(runs: Path) -> dict[str, Run]:
    return {run.path.name.partition("-")[0]: run for run in every(runs)}


def files(run: Run) -> set[str]:
    return {path.name for path in run.path.iterdir()}


def rows(run: Run) -> list[dict[str, float]]:
    """Return the epochs less what the clock says; every line must be whole."""
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def result(run: Run) -> dict[str, Any]:
    found = run.result()
    assert found
    return found


def lasting(runs: Path) -> dict[str, Any]:
    """Return all that must be the same whatever happened on the way: files, bytes, figures."""
    return {
        stage: (
            files(run),
            run.model.read_bytes(),
            {k: v for k, v in result(run).items() if k != "seconds"},
            rows(run),
        )
        for stage, run in made(runs).items()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, server: Any, small: Small) -> Path:
    """The runs of a chain that nothing has disturbed."""
    command = Command(tmp_path_factory.mktemp("undisturbed"), server)
    done = command(*small)
    assert (done.returncode, done.stderr) == (0, "")
    return command.runs


def epochs(command: Command, stage: str) -> int:
    """Return how many epochs of `stage` are on the disk."""
    return sum(len(path.read_text().splitlines()) for path in command.runs.glob(f"{stage}-*/metrics.jsonl"))


MOMENTS: dict[str, Callable[[Command], Any]] = {
    "in the first epoch": lambda c: list(c.runs.glob("train-*/metrics.jsonl")),
    "after the last epoch of train": lambda c: epochs(c, "train") >= 3,
    "as train ends": lambda c: list(c.runs.glob("train-*/model.safetensors")),
    "as prune starts": lambda c: list(c.runs.glob("prune-*")),
    "as finetune starts": lambda c: list(c.runs.glob("finetune-*/config.json")),
    "as finetune ends": lambda c: list(c.runs.glob("finetune-*/model.safetensors")),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_continues_to_the_same_bytes(
    command: Command, small: Small, undisturbed: Path, moment: str
) -> None:
    running = command.start(*small)
    running.until(lambda: MOMENTS[moment](command))
    running.kill(signal.SIGKILL)
    assert running.wait().returncode == -signal.SIGKILL
    done = command(*small)
    assert (done.returncode, done.stderr) == (0, "")
    assert lasting(command.runs) == lasting(undisturbed)


def test_a_run_that_is_killed_again_and_again_continues_to_the_same_bytes(
    command: Command, small: Small, undisturbed: Path
) -> None:
    for stage, count in (("train", 1), ("train", 2), ("finetune", 1)):
        running = command.start(*small)
        running.until(lambda stage=stage, count=count: epochs(command, stage) >= count)
        running.kill(signal.SIGKILL)
        running.wait()
    assert command(*small).returncode == 0
    assert lasting(command.runs) == lasting(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2], ids=lambda number: number.name)
def test_a_signal_stops_with_the_state_saved(
    command: Command, small: Small, undisturbed: Path, number: signal.Signals
) -> None:
    stage = "finetune" if number == signal.SIGTERM else "train"
    running = command.start(*small)
    running.until(lambda: epochs(command, stage) >= 1)
    running.kill(number)
    stopped = running.wait()
    assert stopped.returncode == 128 + number
    assert "the same command continues" in stopped.stdout + stopped.stderr
    assert "Traceback" not in stopped.stderr
    run = made(command.runs)[stage]
    assert run.resume.exists() and run.result() is None and run.failure() is None
    done = command(*small)
    assert done.returncode == 0 and f"{run.path.name}: continues at " in done.stdout
    assert lasting(command.runs) == lasting(undisturbed)


def test_a_cold_process_is_killed_and_continues_to_the_same_bytes(
    command: Command, small: Small, undisturbed: Path
) -> None:
    running = command.start(*small, cold=True)
    running.until(lambda: epochs(command, "train") >= 1)
    running.kill(signal.SIGINT)
    assert running.wait().returncode == 130
    assert command(*small).returncode == 0
    assert lasting(command.runs) == lasting(undisturbed)


def test_the_second_time_nothing_is_made(command: Command, small: Small) -> None:
    def stamps() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in command.runs.rglob("*")}

    first, before = command(*small), stamps()
    second = command(*small)
    assert second.returncode == 0 and stamps() == before
    table = first.stdout[first.stdout.index("step ") :]
    assert second.stdout.endswith(table)
    assert second.stdout.count("done before, reused") == 3
    assert [line.split()[0] for line in table.splitlines()[2:5]] == ["train", "prune", "finetune"]


def test_a_changed_choice_makes_only_what_it_changes(command: Command, small: Small) -> None:
    command(*small)
    first = set(every(command.runs))
    for override, stages in (("finetune.lr=0.5", ["finetune"]), ("prune.percent=0.3", ["finetune", "prune"])):
        before = set(every(command.runs))
        done = command(*small, override)
        assert done.returncode == 0
        new = set(every(command.runs)) - before
        assert sorted(run.path.name.partition("-")[0] for run in new) == stages
    assert first < set(every(command.runs))


def test_two_processes_make_each_step_once(command: Command, small: Small, undisturbed: Path) -> None:
    both: list[Running] = [command.start(*small) for _ in range(2)]
    ends = [running.wait() for running in both]
    assert [end.returncode for end in ends] == [0, 0]
    text = "".join(end.stdout for end in ends)
    assert text.count(": starts") == 3 and "continues" not in text
    assert re.search(rf": waiting, .* by process ({both[0].pid}|{both[1].pid}) on ", text)
    assert lasting(command.runs) == lasting(undisturbed)


def test_a_run_leaves_what_the_contract_says(undisturbed: Path) -> None:
    runs = made(undisturbed)
    assert list(runs) == ["finetune", "prune", "train"]
    for stage, run in runs.items():
        kept = {"config.json", "metrics.jsonl", "model.safetensors", "result.json"}
        assert files(run) - {"picture.png"} == kept
        found, config = result(run), run.config()
        assert list(found) == FIELDS and config
        assert (found["id"], found["stage"], found["arch"], found["seed"]) == (run.id, stage, "resnet20", 0)
        assert config["id"] == run.id and config["spec"]["parent"] == found["parent"]
        assert config["machine"]["threads"] == 1 and config["machine"]["libraries"]["torch"]
    dense, pruned, tuned = (result(runs[stage]) for stage in ("train", "prune", "finetune"))
    assert (dense["parent"], pruned["parent"], tuned["parent"]) == (None, dense["id"], pruned["id"])
    assert (dense["sparsity"], dense["percent"], dense["before"]) == (0.0, 0.0, None)
    gone = round(0.8 * 267_696)
    for r in (pruned, tuned):
        assert (r["percent"], r["prunable"], r["prunable_nonzero"]) == (0.8, 267_696, 267_696 - gone)
        assert r["sparsity"] == gone / 267_696
        assert r["params"] - r["params_nonzero"] == gone
        assert r["before"] == {k: pruned[k] for k in ("test_top1", "test_top5", "test_loss")}
    assert (dense["epochs"], pruned["epochs"], tuned["epochs"]) == (3, 0, 2)
    assert pruned["train_loss"] is None
    for run in (runs["train"], runs["finetune"]):
        assert [row["epoch"] for row in rows(run)] == list(range(1, result(run)["epochs"] + 1))
        last = rows(run)[-1]
        assert all(result(run)[k] == last[k] for k in ("test_top1", "test_top5", "test_loss", "train_loss"))


def test_a_failure_is_kept_until_the_step_succeeds(command: Command, small: Small) -> None:
    assert command(*small, "stage=prune").returncode == 0
    failed = command(*small, "finetune.lr=1e30")
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert line.startswith("error: the loss is ") and line.endswith("lower finetune.lr")
    run = made(command.runs)["finetune"]
    failure = run.failure()
    assert failure and failure["error"] == line.removeprefix("error: ") and "Traceback" in failure["traceback"]
    assert run.result() is None and not list(run.path.glob("*.pt"))
    done = command(*small, "finetune.lr=1e30", "finetune.epochs=0")
    assert done.returncode == 0


def test_a_mended_failure_leaves_no_trace(command: Command, small: Small, undisturbed: Path) -> None:
    running = command.start(*small)
    running.until(lambda: list(command.runs.glob("train-*/resume.pt")))
    running.kill(signal.SIGKILL)
    running.wait()
    run = made(command.runs)["train"]
    saved = run.resume.read_bytes()
    run.resume.write_bytes(saved[:1000])
    failed = command(*small)
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert str(run.resume) in line and "delete it to start again" in line
    assert run.failure()
    run.resume.write_bytes(saved)
    assert command(*small).returncode == 0
    assert lasting(command.runs) == lasting(undisturbed)


@cache
def original(classes: int) -> dict[str, Any]:
    """What the original code saves: names with `module.`, zeros in place of a mask."""
    torch.manual_seed(0)
    weights = archs.build("resnet20", classes).state_dict()
    flat = weights["layer1.0.conv1.weight"].view(-1)
    flat[:100] = 0
    return {"epoch": 3, "best_acc": 91.5, "state_dict": {f"module.{name}": w for name, w in weights.items()}}


@pytest.mark.parametrize("kind", ["path", "id", "original"])
def test_a_run_starts_from_what_resume_names(
    command: Command, small: Small, undisturbed: Path, tmp_path: Path, kind: str
) -> None:
    dense = made(undisturbed)["train"]
    runs = undisturbed if kind == "id" else command.runs
    torch.save(original(3), tmp_path / "model.pth.tar")
    start = {"path": str(dense.model), "id": dense.id, "original": str(tmp_path / "model.pth.tar")}[kind]
    before = set(every(runs))
    done = command(*small, f"resume={start}", "finetune.epochs=1", runs=runs)
    assert (done.returncode, done.stderr) == (0, "")
    new = {run.path.name.partition("-")[0]: run for run in set(every(runs)) - before}
    assert set(new) == {"prune", "finetune"}
    assert str(result(new["prune"])["parent"]).startswith("sha256:")
    gone = round(0.8 * 267_696)
    assert [result(new[stage])["prunable_nonzero"] for stage in new] == [267_696 - gone] * 2
    if kind != "original":  # the same weights as in the chain that trained them itself
        assert new["prune"].model.read_bytes() == made(undisturbed)["prune"].model.read_bytes()
    for run in new.values():  # for the next test's sake
        for path in run.path.iterdir():
            path.unlink()
        run.path.rmdir()


def test_resuming_a_pruned_network_goes_on_from_its_sparsity(command: Command, small: Small, undisturbed: Path) -> None:
    pruned = made(undisturbed)["prune"].model
    refused = command(*small, f"resume={pruned}", "prune.percent=0.3")
    assert refused.returncode == 1 and not list(command.runs.glob("*/config.json"))
    assert refused.stderr.startswith("error: prune.percent=0.3 is below the sparsity 0.8000 that ")
    done = command(*small, f"resume={pruned}", "prune.percent=0.9", "stage=prune")
    assert done.returncode == 0
    assert result(made(command.runs)["prune"])["prunable_nonzero"] == 267_696 - round(0.9 * 267_696)


def test_the_default_is_digits_at_80_percent(command: Command) -> None:
    quick = ("train.epochs=1", "finetune.epochs=0", "train.batch_size=256", "train.precision=fp32")
    done = command(*quick)
    assert (done.returncode, done.stderr) == (0, "")
    found = result(made(command.runs)["finetune"])
    assert (found["dataset"], found["arch"], found["percent"], found["epochs"]) == ("digits", "resnet20", 0.8, 0)
    assert found["test_top1"] == found["before"]["test_top1"]
