import os
import re
import shutil
import signal
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from pruning import archs, checkpoints, tracking
from pruning.env import Env
from pruning.errors import UserError
from pruning.execution.execute import run_step
from pruning.execution.stop import SIGNALS, StopRequest
from pruning.pipeline import plan
from pruning.runs import Result, Run, every
from tests.commands import Command, Server
from tests.helpers import by_stage, epochs, lasting, quick, result, rows, slow, stamps
from tests.pipeline.made import composed

Small = tuple[str, ...]
PRUNABLE = 267_696
FIELDS = (
    "id stage parent dataset arch seed percent level sparsity test_top1 test_top5 test_loss train_loss "
    "params params_nonzero prunable prunable_nonzero macs macs_nonzero effective_nonzero empty_layers layers "
    "epochs seconds before normalisation settings model_sha256"
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, server: Server, small: Small) -> Path:
    """The runs of a chain that nothing has disturbed; what the command printed is in 1.out beside them."""
    command = Command(tmp_path_factory.mktemp("undisturbed"), server)
    done = command(*small)
    assert (done.returncode, done.stderr) == (0, "")
    return command.runs


@pytest.fixture
def made(undisturbed: Path, command: Command) -> set[Run]:
    """Puts a copy of these runs where `command` finds them."""
    shutil.copytree(undisturbed, command.runs)
    return set(every(command.runs))


# killed, stopped, continued


def kill(command: Command, small: Small, pattern: str, count: int = 0, number: int = signal.SIGKILL) -> str:
    """Start the chain, send the signal when `count` epochs or a file are there, and return what was printed."""
    running = command.start(*small, cold=number == signal.SIGINT)
    running.until(lambda: epochs(command.runs, pattern) >= count if count else [*command.runs.glob(pattern)])
    running.kill(number)
    ended = running.wait()
    assert ended.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in ended.stderr
    return ended.stdout + ended.stderr


MOMENTS = {
    "in the first epoch": ("train-*/metrics.jsonl", 0),
    "after the last epoch of train": ("train-*", 3),
    "as train ends": ("train-*/model.safetensors", 0),
    "as prune starts": ("prune-*", 0),
    "as finetune starts": ("finetune-*/config.json", 0),
    "before the result": ("finetune-*/model.safetensors", 0),
}


@pytest.mark.parametrize("moment", quick("in the first epoch", of=MOMENTS))
def test_a_killed_run_continues_to_the_same_bytes(
    command: Command, small: Small, undisturbed: Path, moment: str
) -> None:
    kill(command, small, *MOMENTS[moment])
    done = command(*small)
    assert (done.returncode, done.stderr) == (0, "")
    assert lasting(command.runs) == lasting(undisturbed)


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, pytest.param(signal.SIGINT, marks=slow)],
    ids=["TERM", "INT"],  # INT: a cold process
)
def test_a_signal_stops_with_the_state_saved(
    command: Command, small: Small, undisturbed: Path, number: signal.Signals
) -> None:
    stage = "finetune" if number == signal.SIGTERM else "train"
    assert "the same command continues" in kill(command, small, f"{stage}-*", 1, number)
    run = by_stage(command.runs)[stage]
    assert (run.resume.exists(), run.result(), run.failure()) == (True, None, None)
    done = command(*small)
    assert done.returncode == 0
    assert f"{run.path.name}: continues at " in done.stdout
    assert lasting(command.runs) == lasting(undisturbed)


def test_a_signal_is_a_request_and_a_second_ctrl_c_the_end() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    before = [signal.getsignal(number) for number in SIGNALS]
    for number in SIGNALS:
        with StopRequest() as stop:
            before_it = stop.signal
            os.kill(os.getpid(), number)
            assert (before_it, stop.signal) == (None, number)
            if number == signal.SIGINT:
                with pytest.raises(KeyboardInterrupt):
                    os.kill(os.getpid(), number)
    assert [signal.getsignal(number) for number in SIGNALS] == before


# nothing is made twice


def test_the_second_time_nothing_is_made(command: Command, small: Small, undisturbed: Path) -> None:
    before = stamps(undisturbed)
    second = command(*small, runs=undisturbed)
    assert (second.returncode, stamps(undisturbed)) == (0, before)
    first = (undisturbed.parent / "1.out").read_text()
    table = first[first.index("step ") :]
    assert second.stdout.endswith(table)
    assert second.stdout.count("done before, reused") == 3
    assert [line.split()[0] for line in table.splitlines()[2:5]] == ["train", "prune", "finetune"]


@slow
def test_a_changed_choice_makes_only_what_it_changes(command: Command, small: Small, made: set[Run]) -> None:
    for percent, stages in ((0.8, ["finetune"]), (0.3, ["finetune", "prune"])):
        before = set(every(command.runs))
        assert command(*small, "finetune.epochs=0", f"prune.percent={percent}").returncode == 0
        assert sorted(run.path.name.partition("-")[0] for run in {*every(command.runs)} - before) == stages
    assert made < {*every(command.runs)}


@slow
def test_two_processes_make_each_step_once(command: Command, small: Small, undisturbed: Path) -> None:
    both = [command.start(*small) for _ in range(2)]
    ends = [running.wait() for running in both]
    assert [end.returncode for end in ends] == [0, 0]
    text = "".join(end.stdout for end in ends)
    assert (text.count(": starts"), text.count("continues")) == (3, 0)
    assert re.search(rf": waiting, .* by process ({both[0].pid}|{both[1].pid}) on ", text)
    assert lasting(command.runs) == lasting(undisturbed)


# what a run leaves


def figures(found: Result) -> dict[str, float]:
    return {key: value for key, value in found.items() if key.startswith("test_")}  # type: ignore[misc]


def test_a_run_leaves_what_the_contract_says(undisturbed: Path) -> None:
    runs = by_stage(undisturbed)
    assert list(runs) == ["finetune", "prune", "train"]
    kept = {"config.json", "metrics.jsonl", "model.safetensors", "result.json", "picture.png", "logits.safetensors"}
    for stage, run in runs.items():
        found, config = result(run), run.config()
        assert config
        assert {path.name for path in run.path.iterdir()} == kept
        assert (" ".join(found), found["stage"], found["arch"], found["seed"]) == (FIELDS, stage, "resnet20", 0)
        assert (config["id"], config["spec"]["parent"]) == (found["id"], found["parent"])
        assert run.path.name.endswith(f"-{found['id']}")
        assert (config["machine"]["threads"], bool(config["machine"]["libraries"]["torch"])) == (1, True)
    dense, pruned, tuned = (result(runs[stage]) for stage in ("train", "prune", "finetune"))
    assert [r["parent"] for r in (dense, pruned, tuned)] == [None, dense["id"], pruned["id"]]
    assert (dense["sparsity"], dense["percent"], dense["level"], dense["before"]) == (0.0, 0.0, 0, None)
    gone = round(0.8 * PRUNABLE)
    for r in (pruned, tuned):
        assert (r["percent"], r["level"], r["sparsity"], r["before"]) == (0.8, 1, gone / PRUNABLE, figures(pruned))
        left = (r["prunable"], r["prunable_nonzero"], r["params"] - r["params_nonzero"])
        assert left == (PRUNABLE, PRUNABLE - gone, gone)
    assert [r["epochs"] for r in (dense, pruned, tuned)] == [3, 0, 2]
    assert pruned["train_loss"] is None
    for run in (runs["train"], runs["finetune"]):
        assert [row["epoch"] for row in rows(run)] == list(range(1, result(run)["epochs"] + 1))
        last = {key: value for key, value in rows(run)[-1].items() if key.startswith("test_") or key == "train_loss"}
        assert last == figures(result(run)) | {"train_loss": result(run)["train_loss"]}


def test_three_levels_prune_more_and_more_of_the_same_weights(small: Small, tmp_path: Path) -> None:
    env = Env(runs=tmp_path / "runs", device="cpu")
    short = ("train.epochs=1", "finetune.epochs=1", "train.precision=fp32", "levels=iterative", "prune.percent=0.9")
    steps = plan.chain(composed(*small, *short), env)
    for step in steps:
        run_step(step, env, tracking.Reporter(), StopRequest())
    runs = [Run.for_step(step, env.runs) for step in steps]
    found = [*map(result, runs)]
    assert [(r["stage"][0], r["level"]) for r in found] == list(zip("tpfpfpf", (0, 1, 1, 2, 2, 3, 3), strict=True))
    assert [r["percent"] for r in found[1::2]] == [0.535841, 0.784557, 0.9]
    assert [r["prunable_nonzero"] for r in found] == [PRUNABLE - round(r["percent"] * PRUNABLE) for r in found]
    for before, after in zip(found[1::2], found[2::2], strict=True):
        assert after["before"] == before["before"] == figures(before)
    models = [checkpoints.load(run.path) for run in runs[1:]]
    for one, other in pairwise(models):
        assert not any((other.mask[name] & ~keep).any() for name, keep in one.mask.items()), "a pruned weight returned"
    assert all(not model.weights[name][~keep].any() for model in models for name, keep in model.mask.items())


# failures


def test_a_failure_is_kept_with_its_traceback(command: Command, small: Small, made: set[Run]) -> None:
    failed = command(*small, "finetune.lr=1e30")
    (line,) = failed.stderr.splitlines()
    assert (failed.returncode, line[:41]) == (1, "error: finetune.lr=1e+30 is too high: the")
    (run,) = set(every(command.runs)) - made
    failure = run.failure()
    assert failure
    assert failure["error"] == line.removeprefix("error: ")
    assert "Traceback" in failure["traceback"]
    assert (run.result(), [*run.path.glob("*.pt")]) == (None, [])


@slow
def test_a_mended_failure_leaves_no_trace(command: Command, small: Small, undisturbed: Path) -> None:
    kill(command, small, "train-*/resume.pt")
    run = by_stage(command.runs)["train"]
    saved = run.resume.read_bytes()
    run.resume.write_bytes(saved[:1000])
    failed = command(*small)
    assert (failed.returncode, bool(run.failure())) == (1, True)
    assert re.fullmatch(rf"error: {run.resume} cannot be read .*; delete it to start again\n", failed.stderr)
    run.resume.write_bytes(saved)
    assert command(*small).returncode == 0
    assert lasting(command.runs) == lasting(undisturbed)


def test_images_that_changed_after_planning_are_refused(small: Small, folder: Path, tmp_path: Path) -> None:
    env, root = Env(runs=tmp_path / "runs", data=tmp_path / "data", device="cpu"), tmp_path / "pictures"
    shutil.copytree(folder, root)
    (step,) = plan.chain(composed(*small, f"dataset.root={root}", "stage=train", "train.precision=fp32"), env)
    next((root / "train" / "a").iterdir()).unlink()
    with pytest.raises(UserError, match=f"^the images in {root} have changed since this was planned; run the command"):
        run_step(step, env, tracking.Reporter(), StopRequest())


# resume=


def test_a_run_starts_from_what_resume_names(command: Command, small: Small, made: set[Run]) -> None:
    runs = by_stage(command.runs)
    done = command(*small, f"resume={result(runs['train'])['id']}", "stage=prune")
    assert (done.returncode, done.stderr) == (0, "")
    (new,) = set(every(command.runs)) - made
    assert str(result(new)["parent"]).startswith("sha256:")
    assert new.model.read_bytes() == runs["prune"].model.read_bytes()


def test_a_run_starts_from_what_the_original_code_saved(command: Command, small: Small, tmp_path: Path) -> None:
    """Its names begin with `module.`, and it has zeros in place of a mask."""
    weights = archs.build("resnet20", 3).state_dict()
    weights["layer1.0.conv1.weight"].view(-1)[:100] = 0
    state = {f"module.{name}": weight for name, weight in weights.items()}
    torch.save({"epoch": 3, "best_acc": 91.5, "state_dict": state}, tmp_path / "model.pth.tar")
    done = command(*small, f"resume={tmp_path / 'model.pth.tar'}", "finetune.epochs=1")
    assert (done.returncode, done.stderr) == (0, "")
    runs = by_stage(command.runs)
    assert set(runs) == {"prune", "finetune"}
    assert {result(run)["prunable_nonzero"] for run in runs.values()} == {PRUNABLE - round(0.8 * PRUNABLE)}


def test_levels_go_on_above_the_sparsity_of_a_pruned_network(command: Command, small: Small, undisturbed: Path) -> None:
    levels = ("levels.at=[0.5,0.85]", "prune.percent=0.9", "finetune.epochs=0", "stage=prune")
    done = command(*small, f"resume={by_stage(undisturbed)['prune'].model}", *levels)
    assert (done.returncode, done.stderr) == (0, "")
    found = sorted((r["percent"], r["stage"]) for r in map(result, every(command.runs)))
    assert found == [(0.85, "finetune"), (0.85, "prune"), (0.9, "prune")]
