import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from pruning.pool import Board, Slot, Worker, slots
from pruning.sweeps import Sweep, recorded

from pruning import claims, pool
from pruning.errors import UserError
from pruning.runs import Env, Run, Step, every
from pruning.training import Interrupted
from tests.commands import Command, Running, Server
from tests.test_sweeps import chain, place, sweep_of

GRID = ("prune.percent=0.3,0.6", "seed=0,1", "train.epochs=20", "finetune.epochs=3", "hydra.launcher.workers=2")
TIMES = ("seconds", "images_per_second")
LONG = 600.0  # seconds; a busy machine is no failure

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and PR_SET_PDEATHSIG")


def start(command: Command, *overrides: str) -> Running:
    return command.start(*overrides, "-m", WANDB_MODE="disabled")


def rows(run: Run) -> list[dict[str, float]]:
    """Return the epochs less what the clock says; every line must be whole."""
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def lasting(runs: Path) -> dict[str, Any]:
    """Return all that must be the same whatever happened on the way: files, bytes, figures."""
    found = {}
    for run in every(runs):
        result = {k: v for k, v in (run.result() or {}).items() if k != "seconds"}
        files = sorted(path.name for path in run.path.iterdir())
        found[run.path.name] = (files, run.model.exists() and run.model.read_bytes(), result, rows(run))
    return found


def stamps(runs: Path) -> dict[Path, int]:
    """Return when each file was last written, less the note of what was asked for."""
    return {path: path.stat().st_mtime_ns for path in runs.rglob("*") if ".sweeps" not in path.parts}


def epochs(runs: Path, pattern: str) -> int:
    return sum(path.read_text().count("\n") for path in runs.glob(f"{pattern}/metrics.jsonl"))


def holders(runs: Path) -> dict[str, int]:
    """Return which process makes which step."""
    found = {run.path.name: claims.held(run.path) for run in every(runs)}
    return {name: holder["pid"] for name, holder in found.items() if holder}


def workers(running: Running) -> list[psutil.Process]:
    """Return the worker processes of a command that are Python already."""
    try:
        children = psutil.Process(running.pid).children()
        return [child for child in children if "pruning.worker" in child.cmdline()]
    except psutil.Error:
        return []


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(processes: list[psutil.Process]) -> bool:
    """Wait until they have ended; none is a child of this process."""
    for _ in range(int(LONG * 20)):
        if not any(map(alive, processes)):
            return True
        threading.Event().wait(0.05)
    return False


@pytest.fixture(scope="module")
def grid(small: tuple[str, ...]) -> tuple[str, ...]:
    return (*small, *GRID)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, server: Server, grid: tuple[str, ...]) -> tuple[Command, str]:
    """A whole sweep that nothing has disturbed, and what it printed."""
    command = Command(tmp_path_factory.mktemp("undisturbed"), server)
    done = start(command, *grid).wait(LONG)
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
        for pattern in patterns:
            for path in list(command.runs.glob(pattern)):
                shutil.rmtree(path)
        return command

    return make


def the(runs: Path, pattern: str) -> Path:
    (path,) = runs.glob(pattern)
    return path


# whole sweeps


def test_a_sweep_makes_each_step_once(first: tuple[Command, str]) -> None:
    command, said = first
    names = sorted(run.path.name for run in every(command.runs))
    assert [sum(name.startswith(stage) for name in names) for stage in ("train", "prune", "finetune")] == [2, 4, 4]
    assert "cells: 4\nsteps: 10 (2 train, 4 prune, 4 finetune); 10 missing\nepochs: 52, 52 of them still " in said
    ended = [line for line in said.splitlines() if line.startswith("[")]
    assert [line.split()[0] for line in ended] == [f"[{i}/10]" for i in range(1, 11)]
    assert sorted(line.split()[1].rstrip(":") for line in ended) == names
    table = said.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in table[2:]] == ["finetune"] * 4
    for run in every(command.runs):
        files = {"config.json", "log.txt", "metrics.jsonl", "model.safetensors", "picture.png", "result.json"}
        assert {path.name for path in run.path.iterdir()} == files
        assert (run.path / "log.txt").read_text().count(f"{run.path.name}: starts") == 1
    (sweep,) = recorded(command.runs)
    assert len(sweep["steps"]) == 10 and len(sweep["wanted"]) == 4


def test_the_second_time_nothing_is_made(first: tuple[Command, str], grid: tuple[str, ...]) -> None:
    command, said = first
    before = stamps(command.runs)
    done = start(command, *grid).wait(LONG)
    assert (done.returncode, done.stderr) == (0, "")
    assert stamps(command.runs) == before
    assert "; 10 done\n" in done.stdout and "time: nothing to train" in done.stdout
    assert done.stdout.split("\n\n")[1] == said.split("\n\n")[1]  # the table
    status = command("stage=status")
    assert status.stdout == f"{recorded(command.runs)[0]['name']}: 10 steps, 10 done\n"


def test_two_terminals_share_the_work(command: Command, grid: tuple[str, ...], undisturbed: Path) -> None:
    both = [start(command, *grid) for _ in range(2)]
    ends = [running.wait(LONG) for running in both]
    assert [(end.returncode, end.stderr) for end in ends] == [(0, ""), (0, "")]
    assert ends[0].stdout.split("\n\n")[1] == ends[1].stdout.split("\n\n")[1]
    assert lasting(command.runs) == lasting(undisturbed)
    for run in every(command.runs):
        log = (run.path / "log.txt").read_text()
        assert (log.count(": starts"), log.count("continues"), log.count("Traceback")) == (1, 0, 0)


# failures


def test_a_file_in_the_way_costs_only_what_starts_from_it(
    begun: Callable[..., Command], grid: tuple[str, ...], undisturbed: Path
) -> None:
    command = begun("*-p0.3-s0-*", "finetune-*-s1-*")
    blocked = command.runs / the(undisturbed, "prune-*-p0.3-s0-*").name
    blocked.write_text("in the way")
    done = start(command, *grid).wait(LONG)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"failed: {blocked.name}: cannot write {blocked / 'log.txt'}: File exists",
        f"  log: {blocked / 'log.txt'}",
        "error: 1 of 10 steps failed and 1 that start from them were not run; the same command makes only what is "
        "missing",
    ]
    assert "\n3 of 4 cells are done; " in done.stdout
    assert len(list(every(command.runs))) == 8 and blocked.read_text() == "in the way"
    before = {path: stamp for path, stamp in stamps(command.runs).items() if path.is_file() and path != blocked}
    blocked.unlink()
    done = start(command, *grid).wait(LONG)
    assert (done.returncode, done.stderr) == (0, "")
    assert lasting(command.runs) == lasting(undisturbed)
    assert before.items() <= stamps(command.runs).items()


def test_a_broken_parent_is_named_and_mended(
    begun: Callable[..., Command], grid: tuple[str, ...], undisturbed: Path
) -> None:
    command = begun("prune-*-s0-*", "finetune-*-s0-*", "finetune-*-p0.6-s1-*")
    model = the(command.runs, "train-*-s0-*") / "model.safetensors"
    whole = model.read_bytes()
    model.write_bytes(whole[:1000])
    done = start(command, *grid).wait(LONG)
    assert done.returncode == 1
    assert "2 of 10 steps failed and 2 that start from them were not run" in done.stderr.splitlines()[-1]
    assert {run.path.name for run in every(command.runs) if run.result()} == {
        run.path.name for run in every(undisturbed) if "-s1-" in run.path.name or "train" in run.path.name
    }
    status = command("stage=status").stdout
    assert " 6 done, 2 failed, 2 waiting\n" in status
    for percent in (0.3, 0.6):
        run = Run(the(command.runs, f"prune-*-p{percent}-s0-*"))
        failure = run.failure()
        assert failure and failure["error"].startswith(f"{model} cannot be read as a checkpoint: ")
        log = (run.path / "log.txt").read_text().splitlines()
        assert log[-1] == f"pruning.errors.UserError: {failure['error']}" == failure["traceback"].splitlines()[-1]
        for text in (done.stderr, status):
            told = [f"failed: {run.path.name}: {failure['error']}", *(f"  | {line}" for line in log[-5:])]
            assert "\n".join([*told, f"  log: {run.path / 'log.txt'}"]) in text
        assert f"waiting: not run, {run.id} failed" in status
    model.write_bytes(whole)
    made = {path: stamp for path, stamp in stamps(command.runs).items() if "-s1-" in str(path)}
    assert start(command, *grid).wait(LONG).returncode == 0
    assert lasting(command.runs) == lasting(undisturbed)
    assert made.items() <= stamps(command.runs).items()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_a_killed_worker_costs_its_step_and_what_starts_from_it(
    begun: Callable[..., Command], grid: tuple[str, ...], undisturbed: Path, number: signal.Signals
) -> None:
    command = begun("train-*-s0-*", "*-p0.3-s0-*", "finetune-*-p0.3-s1-*")
    name = the(undisturbed, "train-*-s0-*").name
    running = start(command, *grid)
    running.until(lambda: epochs(command.runs, name) >= 1, LONG)
    os.kill(holders(command.runs)[name], number)
    done = running.wait(LONG)
    assert done.returncode == 1
    killed = number == signal.SIGKILL
    told = "its process was " + ("killed by SIGKILL (out of memory?)" if killed else "told to stop by a signal from")
    head, *log, place, last = done.stderr.splitlines()
    assert head.startswith(f"failed: {name}: {told}")
    assert any("epoch 1/20" in line for line in log) and place == f"  log: {command.runs / name / 'log.txt'}"
    assert last.startswith("error: 1 of 10 steps failed and 2 that start from them were not run; ")
    assert Run(the(command.runs, "finetune-*-p0.3-s1-*")).result()
    assert not holders(command.runs) and len(list(every(command.runs))) == 8
    status = command("stage=status").stdout
    assert ("1 died, 7 done, 2 waiting\n" if killed else "7 done, 1 partly done, 2 waiting\n") in status
    assert ("(killed, or out of memory)" in status) == killed
    if killed:
        assert start(command, *grid).wait(LONG).returncode == 0
        assert lasting(command.runs) == lasting(undisturbed)


# stopping


@linux
def test_ctrl_c_stops_with_the_state_saved(command: Command, grid: tuple[str, ...]) -> None:
    running = start(command, *grid, "train.epochs=10000")
    running.until(lambda: len(holders(command.runs)) == 2, LONG)
    processes = workers(running)
    assert {process.pid for process in processes} == set(holders(command.runs).values())
    have_their_own(processes)
    sessions = {os.getsid(process.pid) for process in processes}
    assert len(sessions) == 2 and os.getsid(running.pid) not in sessions  # a terminal's Ctrl-C does not reach them
    running.until(lambda: epochs(command.runs, "train-*") >= 1, LONG)
    running.kill(signal.SIGINT)
    done = running.wait(LONG)
    assert (done.returncode, done.stderr) == (130, "")
    assert done.stdout.endswith("\nstopped, with the state saved; the same command continues\n")
    assert not any(map(alive, processes)) and not holders(command.runs)
    assert all(run.resume.exists() and not run.failure() for run in every(command.runs))
    assert ": 10 steps, 2 partly done, 8 waiting\n" in command("stage=status").stdout


def have_their_own(processes: list[psutil.Process]) -> None:
    """Hold two workers on the cores to what they may use."""
    cores = [set(process.cpu_affinity() or []) for process in processes]
    assert len(cores) == 2 and all(cores)
    assert not set.intersection(*cores) or os.cpu_count() == 1
    for process in processes:
        variables = process.environ()
        assert variables["OMP_NUM_THREADS"] == "1" and variables["WANDB_MODE"] == "disabled"


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_what_was_stopped_continues_to_the_same_bytes(
    begun: Callable[..., Command], grid: tuple[str, ...], undisturbed: Path, number: signal.Signals
) -> None:
    """SIGKILL is for the parent; its workers notice and save their state."""
    command = begun("train-*", "finetune-*-p0.3-s0-*")
    running = start(command, *grid)
    running.until(lambda: epochs(command.runs, "train-*") >= 1, LONG)
    processes = workers(running)
    running.kill(number)
    assert running.wait(LONG).returncode == {signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    assert gone(processes)
    stopped = [run for run in every(command.runs) if not run.result()]
    for run in stopped:
        assert run.resume.exists() and not run.failure()
        assert not claims.held(run.path) and not claims.abandoned(run.path)
        assert "Traceback" not in (run.path / "log.txt").read_text()
    done = start(command, *grid).wait(LONG)
    assert (done.returncode, done.stderr) == (0, "")
    assert lasting(command.runs) == lasting(undisturbed)
    for run in stopped:
        log = (run.path / "log.txt").read_text()
        assert log.count(": starts") + log.count(": continues at ") == 2
    assert any(": continues at " in (run.path / "log.txt").read_text() for run in stopped)


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_workers_that_are_still_starting_end_too(
    command: Command, grid: tuple[str, ...], number: signal.Signals
) -> None:
    running = start(command, *grid)
    running.until(lambda: len(workers(running)) == 2, LONG)
    processes = workers(running)
    running.kill(number)
    assert running.wait(LONG).returncode == {signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    assert gone(processes)
    assert not holders(command.runs) and not any(run.result() for run in every(command.runs))


# what a worker may use (see also have_their_own)


@contextmanager
def launched(worker: Worker) -> Iterator[psutil.Process]:
    process = worker.launch()
    assert process.stdin and process.stdout
    yield psutil.Process(process.pid)
    process.stdin.close()
    assert process.wait() == 0
    process.stdout.close()


@linux
def test_a_worker_on_a_gpu_sees_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with launched(Worker(Board(sweep(tmp_path, 1)), Slot(gpu="7"))) as process:
        while "pruning.worker" not in (command := process.cmdline()):
            pass
        variables = process.environ()
        assert variables["CUDA_VISIBLE_DEVICES"] == "7" and "OMP_NUM_THREADS" not in variables
        env = Env.of(json.loads(command[command.index("pruning.worker") + 1]))
        assert (env.device, env.threads, env.runs) == ("cuda", None, tmp_path)


def machine(monkeypatch: pytest.MonkeyPatch, cores: set[int], gpus: int = 0, visible: str | None = None) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cores, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


@pytest.mark.parametrize(
    ("cores", "threads", "count", "expected"),
    [
        ({0, 1}, None, None, [(0,), (1,)]),
        ({2, 5, 9, 11}, 2, None, [(2, 5), (9, 11)]),
        ({0, 1, 2, 3, 4}, 2, None, [(0, 1), (2, 3)]),
        ({0, 1, 2, 3}, None, 2, [(0, 1), (2, 3)]),
        ({0, 1}, 1, 5, [(0,), (1,)]),
        ({0, 1}, 8, None, [(0, 1)]),
        ({4}, None, None, [(4,)]),
        ({0, 1, 2, 3}, None, 1, [(0, 1, 2, 3)]),
    ],
)
def test_cores_are_divided(
    monkeypatch: pytest.MonkeyPatch, cores: set[int], threads: int | None, count: int | None, expected: list[Any]
) -> None:
    machine(monkeypatch, cores)
    assert slots(Env(threads=threads), workers=count) == [Slot(cores=some) for some in expected]


@pytest.mark.parametrize(
    ("visible", "device", "per_device", "expected"),
    [
        (None, "auto", 1, ["0", "1", "2"]),
        (None, "cuda", 2, ["0", "0", "1", "1", "2", "2"]),
        ("4,6,7", "auto", 1, ["4", "6", "7"]),
        ("4,6,7", "cuda:1", 1, ["6"]),
        (None, "cuda:2", 2, ["2", "2"]),
        ("GPU-a,MIG-b", "auto", 1, ["GPU-a", "MIG-b"]),
    ],
)
def test_gpus_are_divided(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, device: str, per_device: int, expected: list[str]
) -> None:
    machine(monkeypatch, {0, 1}, gpus=3, visible=visible)
    assert slots(Env(device=device), per_device) == [Slot(gpu=gpu) for gpu in expected]


def test_with_a_gpu_there_the_cores_are_used_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, {0, 1}, gpus=3)
    assert slots(Env(device="cpu"), 2) == [Slot(cores=(0,)), Slot(cores=(1,))]


# the board


def sweep(runs: Path, seeds: int = 2) -> Sweep:
    return sweep_of([(p, s, "finetune") for s in range(seeds) for p in (0.3, 0.6)], runs)


def short(one: Step | None) -> str:
    assert one
    return f"{one.stage}{one.percent or ''} {one.seed}"


def test_the_board_gives_cells_one_after_the_other(tmp_path: Path) -> None:
    board, given = Board(sweep(tmp_path)), []
    while (one := board.take(Slot())) is not None:
        given.append(short(one))
        board.settle(one, "done")
    assert given == [
        f"{stage} {seed}"
        for seed in (0, 1)
        for stage in ("train", "prune0.3", "finetune0.3", "prune0.6", "finetune0.6")
    ]
    assert set(board.outcomes.values()) == {"done"} and board.over()
    board.raise_for_failures()


def test_the_board_leaves_out_what_is_done(tmp_path: Path) -> None:
    for one in chain(0.3, 0, "prune"):
        place(tmp_path, one, result={})
    board = Board(sweep(tmp_path, seeds=1))
    assert sorted(board.outcomes.values()) == ["reused", "reused"]
    assert [short(one) for one in board.ready] == ["finetune0.3 0", "prune0.6 0"]


def test_the_board_blocks_what_starts_from_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = Board(sweep(tmp_path))
    one, other = board.take(Slot()), board.take(Slot())
    assert one and other and (one.seed, other.seed) == (0, 1)
    board.settle(one, "failed", "ValueError: no")
    board.settle(other, "done")
    rest = []
    while (child := board.take(Slot())) is not None:
        rest.append(child.seed)
        board.settle(child, "done")
    assert rest == [1] * 4 and sorted(board.outcomes.values()) == ["done"] * 5 + ["failed"] + ["not run"] * 4
    with pytest.raises(UserError, match=r"^1 of 10 steps failed and 4 that start from them were not run; the same"):
        board.raise_for_failures()
    assert capsys.readouterr().err.startswith(f"failed: {one.name}: ValueError: no\n  log: ")


def test_what_is_done_stays_so_whatever_becomes_of_its_parent(tmp_path: Path) -> None:
    place(tmp_path, chain(0.3, 0, "prune")[1], result={})
    board = Board(sweep(tmp_path, seeds=1))
    assert [short(one) for one in board.ready] == ["train 0", "finetune0.3 0"]
    one = board.take(Slot())
    assert one
    board.settle(one, "failed", "ValueError: no")
    assert sorted(board.outcomes.values()) == ["failed", "not run", "not run", "reused"]
    assert [short(one) for one in board.ready] == ["finetune0.3 0"]


def test_the_board_gives_again_what_another_process_was_making(tmp_path: Path) -> None:
    board = Board(sweep(tmp_path))
    one = board.take(Slot())
    assert one
    board.settle(one, "busy")
    assert [short(step) for step in board.ready] == ["train 1", "train 0"]


def test_a_stopped_board_gives_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = Board(sweep(tmp_path))
    one = board.take(Slot())
    assert one
    waiting = threading.Thread(target=lambda: board.take(Slot()))
    board.stop()
    assert not board.over()  # one is still running
    waiting.start()
    board.settle(one, "interrupted")
    waiting.join(LONG)
    assert not waiting.is_alive() and board.take(Slot()) is None and board.over()
    with pytest.raises(Interrupted):
        board.raise_for_failures()
    assert capsys.readouterr().out == "stopped, with the state saved; the same command continues\n"


def test_a_worker_that_cannot_be_started_fails_its_step_and_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(worker: Worker) -> Any:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(Worker, "launch", launch)
    board = pool.run(sweep(tmp_path), [Slot(cores=(0,)), Slot(cores=(1,))], lambda: None)
    assert set(board.errors.values()) == {"OSError: Cannot allocate memory"} and len(board.errors) == 2
    assert sorted(board.outcomes.values()) == ["failed"] * 2 + ["not run"] * 8


def test_a_worker_is_not_given_a_step_once_the_sweep_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come while the process is being made: there is nothing to signal yet."""
    board = Board(sweep(tmp_path))
    monkeypatch.setattr(Worker, "launch", lambda worker: board.stop())
    one = board.take(Slot())
    assert one and Worker(board, Slot()).ask(one) == ("interrupted", "")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (3, "its process ended with status 3"),
        (-signal.SIGKILL, "its process was killed by SIGKILL (out of memory?)"),
        (-signal.SIGSEGV, "its process was killed by SIGSEGV"),
    ],
)
def test_how_a_process_ended(status: int, text: str) -> None:
    assert pool.ended(status) == text
