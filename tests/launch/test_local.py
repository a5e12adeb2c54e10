import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from pruning.env import Env
from pruning.launch import local
from pruning.launch.local import Feeder
from pruning.launch.machine import divide, hint
from pruning.launch.scheduler import Outcome, Resources, Scheduler
from pruning.pipeline.sweep import Sweep
from pruning.runs import Run, claims, every
from pruning.runs.records import recorded_sweeps
from tests.commands import Command, Server
from tests.helpers import epochs, lasting, models, slow, stamps
from tests.launch.processes import WORKER, alive, holders, start, until, workers
from tests.pipeline.made import chain, sweep_of
from tests.runs.steps import taken

GRID = ("prune.percent=0.3,0.6", "seed=0,1", "train.epochs=20", "finetune.epochs=3", "hydra.launcher.workers=2")

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and PR_SET_PDEATHSIG")
stops = pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)], ids=["INT", "KILL"])


@pytest.fixture(scope="module")
def grid(small: tuple[str, ...]) -> tuple[str, ...]:
    return (*small, *GRID)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, server: Server, grid: tuple[str, ...]) -> tuple[Command, str]:
    """A whole sweep that nothing has disturbed, and what it printed."""
    command = Command(tmp_path_factory.mktemp("undisturbed"), server)
    done = start(command, *grid).wait()
    assert (done.returncode, done.stderr) == (0, "")
    return command, done.stdout


@pytest.fixture(scope="module")
def undisturbed(first: tuple[Command, str]) -> Path:
    return first[0].runs


@pytest.fixture
def begun(command: Command, undisturbed: Path) -> Callable[..., Command]:
    """`begun("train-*-s0-*", ...)`: the whole sweep is done, less these steps."""

    def make(*patterns: str) -> Command:
        shutil.copytree(undisturbed, command.runs)
        for path in [path for pattern in patterns for path in command.runs.glob(pattern)]:
            shutil.rmtree(path)
        return command

    return make


# whole sweeps


def test_a_sweep_makes_each_step_once(first: tuple[Command, str]) -> None:
    command, printed = first
    names = sorted(run.path.name for run in every(command.runs))
    assert [sum(name.startswith(stage) for name in names) for stage in ("train", "prune", "finetune")] == [2, 4, 4]
    assert "cells: 4\nsteps: 10 (2 train, 4 prune, 4 finetune); 10 missing\nepochs: 52, 52 of them still " in printed
    ended = [line.split()[:2] for line in printed.splitlines() if line.startswith("[")]
    assert [place for place, _ in ended] == [f"[{i}/10]" for i in range(1, 11)]
    assert sorted(name.rstrip(":") for _, name in ended) == names
    table = printed.split("\n\n")[1].splitlines()
    cells = [f"seed={seed} prune.percent={percent}" for seed in (0, 1) for percent in (0.3, 0.6)]
    assert sorted(re.split("  +", line)[0] for line in table[2:]) == cells
    assert [re.split("  +", line)[1] for line in table[2:]] == ["finetune"] * 4
    for run in every(command.runs):
        files = {
            "config.json",
            "log.txt",
            "logits.safetensors",
            "metrics.jsonl",
            "model.safetensors",
            "picture.png",
            "result.json",
        }
        assert {path.name for path in run.path.iterdir()} == files
        assert run.log.read_text().count(f"{run.path.name}: starts") == 1


def test_the_second_time_nothing_is_made(first: tuple[Command, str], grid: tuple[str, ...]) -> None:
    command, printed = first
    before = stamps(command.runs)
    done = start(command, *grid).wait()
    assert (done.returncode, done.stderr) == (0, "")
    assert stamps(command.runs) == before
    assert "; 10 done\n" in done.stdout
    assert "time: nothing to train" in done.stdout
    assert done.stdout.split("\n\n")[1] == printed.split("\n\n")[1]  # the table
    (sweep,), damaged = recorded_sweeps(command.runs)
    assert damaged == []
    assert command("stage=status").stdout == f"{sweep.name}: 10 steps, 10 done\n"


@slow
def test_two_terminals_share_the_work(command: Command, grid: tuple[str, ...], undisturbed: Path) -> None:
    both = [start(command, *grid) for _ in range(2)]
    ends = [running.wait() for running in both]
    assert [(end.returncode, end.stderr) for end in ends] == [(0, ""), (0, "")]
    assert ends[0].stdout.split("\n\n")[1] == ends[1].stdout.split("\n\n")[1]
    assert lasting(command.runs) == lasting(undisturbed)
    for run in every(command.runs):
        log = run.log.read_text()
        assert (log.count(": starts"), log.count("continues"), log.count("Traceback")) == (1, 0, 0)


# failures


@slow
def test_a_failure_costs_only_what_starts_from_it_and_the_same_command_makes_that(
    begun: Callable[..., Command], grid: tuple[str, ...], undisturbed: Path
) -> None:
    command = begun("prune-*-s0-*", "finetune-*-s0-*", "finetune-*-p0.6-s1-*")
    (model,) = command.runs.glob("train-*-s0-*/model.safetensors")
    whole = model.read_bytes()
    model.write_bytes(whole[:1000])
    done = start(command, *grid).wait()
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: 5 of 10 steps are not done (1 failed); the same command makes only what is missing"
    )
    assert "\n2 of 4 cells are done; " in done.stdout
    made = {run.path.name for run in every(undisturbed) if "-s1-" in run.path.name}
    assert {*models(command.runs)} == made
    status = command("stage=status").stdout
    assert ": 10 steps, 1 damaged, 5 done, 4 not run\n" in status
    error = f"{model} is damaged: the step is done, but this file is not the one that it made; delete {model.parent} to"
    for text in (done.stderr, status):
        assert f"failed: {model.parent.name}: {error} make it again\n" in text
        assert f"  log: {Run(model.parent).log}" in text
    model.write_bytes(whole)
    before = {path: stamp for path, stamp in stamps(command.runs).items() if "-s1-" in str(path)}
    assert start(command, *grid).wait().returncode == 0
    assert lasting(command.runs) == lasting(undisturbed)
    assert before.items() <= stamps(command.runs).items()


@slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["KILL", "TERM"])
def test_a_killed_worker_costs_its_step_and_what_starts_from_it(
    begun: Callable[..., Command], grid: tuple[str, ...], undisturbed: Path, number: signal.Signals
) -> None:
    command, killed = begun("train-*-s0-*", "*-p0.3-s0-*", "finetune-*-p0.3-s1-*"), number == signal.SIGKILL
    (name,) = (path.name for path in undisturbed.glob("train-*-s0-*"))
    running = start(command, *grid)
    running.until(lambda: epochs(command.runs, name) >= 2)  # so that the first has been shown too
    os.kill(holders(command.runs)[name], number)
    done = running.wait()
    assert done.returncode == 1
    head, *log, place, last = done.stderr.splitlines()
    how = "killed by SIGKILL (out of memory?)" if killed else "stopped by a signal from outside"
    assert head == f"failed: {name}: its process was {how}"
    assert any("/20  loss" in line for line in log)
    assert place == f"  log: {command.runs / name / 'log.txt'}"
    assert last.startswith("error: 3 of 10 steps are not done (1 failed); ")
    assert len([*command.runs.glob("finetune-*-p0.3-s1-*/result.json")]) == 1
    assert not holders(command.runs)
    assert len(list(every(command.runs))) == 8
    status = command("stage=status").stdout
    assert ("1 died, 7 done, 2 not run\n" if killed else "7 done, 1 partly done, 2 waiting\n") in status


# stopping


@slow
@linux
@stops
def test_what_was_stopped_continues_to_the_same_bytes(
    begun: Callable[..., Command], grid: tuple[str, ...], undisturbed: Path, number: signal.Signals, status: int
) -> None:
    """SIGKILL is for the parent; its workers notice and save their state."""
    command = begun("train-*", "*-p0.3-*")
    running = start(command, *grid)
    running.until(lambda: len(holders(command.runs)) == 2)
    processes = workers(running)
    have_their_own(processes, running)
    running.until(lambda: epochs(command.runs, "train-*") >= 1)
    running.kill(number)
    done = running.wait()
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.endswith("\nstopped, with the state saved; the same command continues\n") == (status == 130)
    until(lambda: not any(map(alive, processes)))
    stopped = [run for run in every(command.runs) if not run.done]
    saved = {run.log: torch.load(run.resume, weights_only=True) for run in stopped if run.resume.exists()}
    begun_before = [log for log, state in saved.items() if state["epoch"]]
    for run in stopped:
        left = (run.resume.exists(), run.failure(), claims.held(run.path), claims.abandoned(run.path))
        assert left == (True, None, None, False)
        assert "Traceback" not in run.log.read_text()
    done = start(command, *grid).wait()
    assert (done.returncode, done.stderr) == (0, "")
    assert lasting(command.runs) == lasting(undisturbed)
    logs = [run.log.read_text() for run in stopped]
    assert [log.count(": starts") + log.count(": continues at ") for log in logs] == [2] * len(logs)
    assert all(": continues at " in log.read_text() for log in begun_before)


def have_their_own(processes: list[psutil.Process], parent: Any) -> None:
    """Hold two workers on the cores to what they may use."""
    cores = [set(process.cpu_affinity() or []) for process in processes]
    assert [bool(some) for some in cores] == [True, True]
    assert not set.intersection(*cores) or os.cpu_count() == 1
    sessions = {os.getsid(pid) for pid in (parent.pid, *(process.pid for process in processes))}
    assert len(sessions) == 3  # a terminal's Ctrl-C does not reach them
    for process in processes:
        variables = process.environ()
        assert (variables["OMP_NUM_THREADS"], variables["WANDB_MODE"]) == ("1", "disabled")


@slow
@linux
@stops
def test_workers_that_are_still_starting_end_too(
    command: Command, grid: tuple[str, ...], number: signal.Signals, status: int
) -> None:
    running = start(command, *grid)
    running.until(lambda: len(workers(running)) == 2)
    processes = workers(running)
    running.kill(number)
    assert running.wait().returncode == status
    until(lambda: not any(map(alive, processes)))
    assert not holders(command.runs)
    assert not any(run.done for run in every(command.runs))


# one worker (see also have_their_own)


def sweep(runs: Path) -> Sweep:
    return sweep_of([(percent, seed, "finetune") for seed in (0, 1) for percent in (0.3, 0.6)], runs)


@linux
def test_a_worker_on_a_gpu_sees_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with Feeder(Scheduler(sweep(tmp_path)), Resources(gpu="7", cores=(0, 1))).launch() as started:
        process = psutil.Process(started.pid)
        until(lambda: WORKER in process.cmdline())
        variables, command = process.environ(), process.cmdline()
        started.kill()
    assert variables["CUDA_VISIBLE_DEVICES"] == "7"
    assert variables["OMP_NUM_THREADS"] == "2"
    env = Env.from_config(json.loads(command[command.index(WORKER) + 1]))
    assert (env.device, env.threads, env.runs) == ("cuda", 2, tmp_path)


def test_a_worker_answers_whatever_becomes_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "RETRY", 0)
    in_the_way, elsewhere, wrong = chain(0.3, 0, "finetune")
    (tmp_path / in_the_way.name).write_text("in the way")
    claim = taken(tmp_path / elsewhere.name)
    feeder = Feeder(Scheduler(sweep(tmp_path)), Resources(cores=(0,)))
    feeder.process = feeder.launch()
    with feeder.process as process:  # closes its stdin, then waits
        log = tmp_path / in_the_way.name / "log.txt"
        text = f"cannot write {log}: File exists; choose another place, with env.runs=DIR"
        assert feeder.ask(in_the_way) == (Outcome.FAILED, text)
        assert feeder.ask(elsewhere) == (Outcome.BUSY, "")
        text = "finetune.batch_size is not set: give finetune.batch_size=... or choose a recipe"
        assert feeder.ask(wrong) == (Outcome.FAILED, text)
        other = chain(0.5, 0, "prune")[1]
        Run.for_step(other, tmp_path).log.mkdir(parents=True)
        assert feeder.ask(other)[1].startswith(f"cannot write {tmp_path / other.name / 'log.txt'}: Is a directory")
    assert process.returncode == 0
    printed = Run.for_step(wrong, tmp_path).log.read_text()
    assert printed.endswith(f"\npruning.errors.UserError: {text}\n")  # nothing of the step after it
    claim.release()


def test_a_worker_that_cannot_be_started_fails_its_step_and_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(feeder: Feeder) -> Any:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(Feeder, "launch", launch)
    scheduler = local.run(sweep(tmp_path), [Resources(cores=(0,)), Resources(cores=(1,))], lambda: None)
    assert [*scheduler.errors.values()] == ["OSError: Cannot allocate memory"] * 2
    assert sorted(scheduler.outcomes.values()) == ["failed"] * 2 + ["not run"] * 8


def test_a_worker_is_not_given_a_step_once_the_sweep_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come while the process is being made: there is nothing to signal yet."""
    scheduler = Scheduler(sweep(tmp_path))
    monkeypatch.setattr(Feeder, "launch", lambda feeder: scheduler.stop())
    assert Feeder(scheduler, Resources()).ask(scheduler.sweep.steps[0]) == (Outcome.INTERRUPTED, "")


def test_how_a_process_ended_is_said_in_words() -> None:
    assert local.ended(3) == "its process ended with status 3"
    assert local.ended(-signal.SIGSEGV) == "its process was killed by SIGSEGV"


# the machine


def divided(monkeypatch: pytest.MonkeyPatch, cores: set[int], env: Env, gpus: int = 0, **count: Any) -> list[Resources]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cores, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    return divide(env, **count)


@pytest.mark.parametrize(
    ("cores", "threads", "count", "expected"),
    [
        ({2, 5, 9, 11}, 2, None, [(2, 5), (9, 11)]),
        ({0, 1, 2, 3, 4}, 2, None, [(0, 1), (2, 3)]),
        ({0, 1, 2, 3}, None, 2, [(0, 1), (2, 3)]),
        ({0, 1}, 1, 5, [(0,), (1,)]),
        ({0, 1}, 8, None, [(0, 1)]),
        ({4}, None, None, [(4,)]),
    ],
)
def test_cores_are_divided(
    monkeypatch: pytest.MonkeyPatch, cores: set[int], threads: int | None, count: int | None, expected: list[Any]
) -> None:
    found = divided(monkeypatch, cores, Env(threads=threads), workers=count)
    assert found == [Resources(cores=some) for some in expected]


@pytest.mark.parametrize(
    ("visible", "device", "per_device", "expected"),
    [
        ("", "auto", 1, [("0", ()), ("1", ()), ("2", ())]),
        ("", "cuda", 2, [("0", ()), ("0", ()), ("1", ()), ("1", ()), ("2", ()), ("2", ())]),
        ("4,6,7", "cuda:1", 2, [("6", (0,)), ("6", (1,))]),
        ("4,6,7", "cuda:2", 1, [("7", (0, 1))]),
        ("GPU-a,MIG-b", "auto", 1, [("GPU-a", (0,)), ("MIG-b", (1,))]),
    ],
)
def test_gpus_are_divided_unless_the_cores_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, visible: str, device: str, per_device: int, expected: list[Any]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = [divided(monkeypatch, {0, 1}, Env(device=d), 3, per_device=per_device) for d in (device, "cpu")]
    assert found == [[Resources(*each) for each in expected], [Resources(cores=(0,)), Resources(cores=(1,))]]


def test_workers_that_share_a_gpu_are_told_what_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    two = [Resources("0", (0,)), Resources("0", (1,)), Resources("1", (2,))]
    assert hint(two) == (
        "2 workers to a GPU, but its multi-process service does not run: they take turns, which gains nothing; "
        "`nvidia-cuda-mps-control -d` starts it\n"
    )
    assert hint(two[1:]) == hint([Resources(cores=(0,)), Resources(cores=(1,))]) == ""
    (tmp_path / "control").touch()
    assert hint(two) == ""
