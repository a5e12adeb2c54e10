import functools
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import rich.console
from pruning.sweeps import Sweep

from pruning import claims, hosts, sweeps, watch
from pruning.files import write_json
from pruning.runs import Run, Step
from pruning.tracking.live import Drawn, LiveTable, live_table
from tests.commands import ROOT
from tests.test_sweeps import chain, dead, place, sweep_of

DENSE, PRUNED, TUNED = chain(0.3, 0, "finetune")
OTHER = chain(0.5, 0, "finetune")[1:]
NAMES = ("epoch", "train_loss", "test_top1")


@pytest.fixture(autouse=True)
def no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "code_version", lambda: {"commit": None, "dirty": None})


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """One dense network, two ratios: 5 steps, 2 of them wanted."""
    return sweep_of([(0.3, 0, "finetune"), (0.5, 0, "finetune")], tmp_path / "runs", "night")


def result(one: Step, **others: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("params", "params_nonzero", "prunable", "prunable_nonzero", "macs", "macs_nonzero"), 100)
    about = {"id": one.id, "stage": one.stage, "epochs": one.epochs, "seconds": 10.0, "before": None}
    return counts | about | {"sparsity": one.percent, "test_top1": 90 + 10 * one.percent} | others


def done(runs: Path, *steps: Step) -> None:
    for one in steps:
        place(runs, one, rows=one.epochs, result=result(one))


def train(runs: Path, one: Step, epochs: int) -> claims.Claim:
    """Leave `one` as it is while it runs."""
    run = place(runs, one)
    figures = [dict(zip(NAMES, (i + 1, 2.5 / (i + 1), 50.0 + i), strict=True)) for i in range(epochs)]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in figures))
    claim = claims.take(run.path)
    assert claim
    return claim


def fail(runs: Path, one: Step, log: Sequence[str] = ()) -> None:
    run = place(runs, one, failed={"error": "ValueError: no", "traceback": "ValueError: no", "when": 0.0})
    if log:
        (run.path / "log.txt").write_text("\n".join(log) + "\n")


# failure_text


def test_a_failure_is_told_with_the_last_lines_of_its_log(tmp_path: Path) -> None:
    fail(tmp_path, TUNED, [f"line {i}" for i in range(20)])
    lines = watch.failure_text(TUNED, "ValueError: no", tmp_path).splitlines()
    assert lines == [
        f"failed: {TUNED.name}: ValueError: no",
        *(f"  | line {i}" for i in range(15, 20)),
        f"  log: {tmp_path / TUNED.name / 'log.txt'}",
    ]


def test_a_short_or_strange_or_missing_log_is_told_too(tmp_path: Path) -> None:
    assert len(watch.failure_text(TUNED, "no", tmp_path).splitlines()) == 2
    place(tmp_path, TUNED)
    (tmp_path / TUNED.name / "log.txt").write_bytes(b"one \xff\xfe")
    assert watch.failure_text(TUNED, "no", tmp_path).splitlines()[1] == "  | one \ufffd\ufffd"
    (tmp_path / DENSE.name).write_text("a file in the place of the directory")
    assert len(watch.failure_text(DENSE, "no", tmp_path).splitlines()) == 2


# status_text


def blocks(runs: Path) -> list[list[str]]:
    return [block.splitlines() for block in watch.status_text(runs).split("\n\n")]


def fields(line: str) -> list[str]:
    return re.split(r"  +", line)


def test_the_status_of_nothing(tmp_path: Path) -> None:
    assert watch.status_text(tmp_path / "runs") == f"nothing has been run in {tmp_path / 'runs'} yet"
    assert not (tmp_path / "runs").exists()


def test_the_status_of_a_sweep_counts_and_lists_what_is_not_done(sweep: Sweep) -> None:
    runs = sweep.env.runs
    sweep.record()
    ((title, _, _, *rows),) = blocks(runs)
    assert title == f"{sweep.title}: 5 steps, 1 missing, 4 waiting"
    assert [fields(row) for row in rows[:2]] == [
        [DENSE.name, "missing"],
        [PRUNED.name, f"waiting: for {DENSE.id}"],
    ]
    done(runs, DENSE, PRUNED)
    claim = train(runs, TUNED, epochs=2)
    fail(runs, OTHER[0], ["first", "last"])
    ((title, _, _, *rows),) = blocks(runs)
    assert title == f"{sweep.title}: 5 steps, 2 done, 1 failed, 1 running, 1 waiting"
    assert fields(rows[0])[0] == TUNED.name and fields(rows[0])[1].startswith("running at epoch 2: process ")
    assert [fields(row) for row in rows[1:3]] == [
        [OTHER[0].name, "failed: ValueError: no"],
        [OTHER[1].name, f"waiting: not run, {OTHER[0].id} failed"],
    ]
    assert rows[3:] == watch.failure_text(OTHER[0], "ValueError: no", runs).splitlines()
    claim.forget()
    dead(Run.of(TUNED, runs))
    assert "1 died" in blocks(runs)[0][0] and "killed, or out of memory" in watch.status_text(runs)
    done(runs, *sweep.steps)
    assert blocks(runs) == [[f"{sweep.title}: 5 steps, 5 done"]]


def test_the_status_names_the_job_of_what_is_not_done(sweep: Sweep) -> None:
    runs = sweep.env.runs
    sweep.record()
    done(runs, DENSE)
    jobs = [{"job": "12_0", "steps": [DENSE.id]}, {"job": "13_1", "steps": [PRUNED.id, TUNED.id]}]
    (runs / sweeps.FOLDER / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))
    (lines,) = blocks(runs)
    assert [fields(line)[2:] for line in lines[3:]] == [["job 13_1"], ["job 13_1"], [], []]


def test_sweeps_come_in_the_order_of_their_start_and_single_runs_last(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, clock = sweep.env.runs, iter([2.0, 1.0])
    monkeypatch.setattr(sweeps.time, "time", lambda: next(clock))
    earlier = sweep_of([(0.3, 5, "train")], runs)
    sweep.record(), earlier.record()
    monkeypatch.undo()
    single = chain(0.9, 8, "finetune")
    for one in reversed(single):
        place(runs, one).write_config(one, {})
    done(runs, *single[:2])
    place(runs, DENSE).write_config(DENSE, {})  # of a sweep, so it is no single run
    titles = [block[0] for block in blocks(runs)]
    assert titles == [
        f"{earlier.title}: 1 steps, 1 missing",
        f"{sweep.title}: 5 steps, 1 missing, 4 waiting",
        "single runs: 3 steps, 2 done, 1 missing",
    ]
    assert fields(blocks(runs)[-1][-1]) == [single[2].name, "missing"]


def test_known_steps_come_back_as_they_were_parents_first(tmp_path: Path) -> None:
    steps = [DENSE, *chain(0.3, 1, "train"), PRUNED, TUNED]
    for one in reversed(steps):
        place(tmp_path, one).write_config(one, {"code": None})
    assert watch.known(tmp_path) == sorted(steps[:2], key=lambda one: one.name) + steps[2:]


# Watch


class Kept(LiveTable):
    def __init__(self) -> None:
        self.shown: list[Any] = []

    def show(self, ended: Sequence[str], running: Sequence[tuple[str, str, str]], summary: str) -> None:
        self.shown.append((list(ended), list(running), summary))


def test_a_watch_tells_each_end_once_and_what_runs(sweep: Sweep) -> None:
    runs, title = sweep.env.runs, sweep.title
    done(runs, DENSE)
    look = watch.Watch(sweep)
    table = look.table = Kept()
    assert [state.kind for state in look.look().values()] == ["missing"] * 4
    done(runs, PRUNED)
    claims_held = [train(runs, TUNED, 2), train(runs, OTHER[0], 0)]
    assert [state.kind for state in look.look().values()] == ["running", "running", "missing"]
    for claim in claims_held:
        claim.forget()
    done(runs, TUNED, *OTHER)
    assert look.look() == {} == look.look()
    ended = f"[2/5] {PRUNED.name}: top-1 93.00 % at sparsity 0.300, 10 s"
    assert table.shown == [
        ([], [], f"{title}: 1 of 5 steps done, 0 running"),
        (
            [ended],
            [(TUNED.name, "epoch 2/5", "loss 1.250 test 51.00 %"), (OTHER[0].name, "", "")],
            f"{title}: 2 of 5 steps done, 2 running",
        ),
        (table.shown[2][0], [], f"{title}: 5 of 5 steps done, 0 running"),
        ([], [], f"{title}: 5 of 5 steps done, 0 running"),
    ]
    assert [line.partition(":")[0] for line in table.shown[2][0]] == [
        f"[{i}/5] {one.name}" for i, one in zip((3, 4, 5), (TUNED, *OTHER), strict=True)
    ]


def test_outside_a_terminal_a_watch_prints_a_line_for_each_end(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    look = watch.Watch(sweep)
    assert type(look.table) is LiveTable
    claim = train(sweep.env.runs, DENSE, 3)
    look.look(), look.look()
    claim.forget()
    done(sweep.env.runs, DENSE)
    look.look(), look.look(), look.close()
    printed = capsys.readouterr()
    assert printed.out == f"[1/5] {DENSE.name}: top-1 90.00 % at sparsity 0.000, 10 s\n" and printed.err == ""


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_in_a_terminal_a_watch_draws_what_runs(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = functools.partial(rich.console.Console, file=screen, force_terminal=True, width=140)
    monkeypatch.setattr(rich.console, "Console", console)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    look = watch.Watch(sweep)
    assert isinstance(look.table, Drawn)
    look.look()
    claim = train(sweep.env.runs, DENSE, 3)
    look.look()
    lines = plain(screen.getvalue()).splitlines()
    assert f"{sweep.title}: 0 of 5 steps done, 1 running" in (line.strip() for line in lines)
    (row,) = (line for line in lines if DENSE.name in line)
    assert re.split(r" *[│┃] *", row)[1:-1] == [DENSE.name, "epoch 3/8", "loss 0.833 test 52.00 %"]
    claim.forget()
    done(sweep.env.runs, DENSE)
    look.look(), look.close()
    ended = f"[1/5] {DENSE.name}: top-1 90.00 % at sparsity 0.000, 10 s"
    assert ended in (line.strip() for line in plain(screen.getvalue()).splitlines())


def test_a_narrow_terminal_and_many_rows_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = functools.partial(rich.console.Console, file=screen, force_terminal=True, width=20, height=5)
    monkeypatch.setattr(rich.console, "Console", console)
    table = Drawn()
    for i in range(3):
        table.show([f"[{i}/50] [/] ended [bold]"], [(DENSE.name, "epoch 1/8", "")] * 30, "title")
    table.close()
    assert "[2/50] [/] ended [bold]" in plain(screen.getvalue())


DRAW = """
from pruning.tracking.live import live_table
table = live_table()
table.show(["[1/5] one: top-1 90.00 %"], [("two", "epoch 1/5", "loss 1.000")], "night: 1 of 5")
table.show([], [], "night: 2 of 5")
table.close()
print(type(table).__name__)
"""


def test_a_real_terminal_is_drawn_on() -> None:
    ours, theirs = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", DRAW], stdout=theirs, stderr=theirs, cwd=ROOT, env=env)
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 65536):
            seen += part
    except OSError:  # the other end has been closed
        pass
    os.close(ours)
    assert process.wait() == 0
    text = plain(seen.decode())
    assert text.splitlines()[-1] == "Drawn"
    assert "[1/5] one: top-1 90.00 %" in text and "epoch 1/5" in text and "night: 2 of 5" in text


def test_no_terminal_is_not_drawn_on() -> None:
    assert type(live_table()) is LiveTable


# sweep_text


def test_the_end_of_a_sweep_shows_the_cells_and_what_sharing_saved(sweep: Sweep) -> None:
    assert watch.sweep_text(sweep, 1.0).startswith("\nno cell is done\n\n0 of 2 cells are done; this call took 1.0 s.")
    runs = sweep.env.runs
    done(runs, DENSE, PRUNED, TUNED)
    text = watch.sweep_text(sweep, 12.34)
    assert "1 of 2 cells are done; this call took 12.3 s. The steps took 30.0 s of worker time" in text
    assert str(runs / TUNED.name) in text and DENSE.name not in text
    done(runs, *OTHER)
    table, _, last = watch.sweep_text(sweep, 1.0).strip().rpartition("\n\n")
    assert len(table.splitlines()) == 4
    assert last.endswith(
        "The steps took 50.0 s of worker time; each cell alone, one after the other, would take 60.0 s."
    )


def test_the_state_of_each_step_is_read_as_often_as_it_is_shown(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are done are not looked at again."""
    looked: list[str] = []
    monkeypatch.setattr(watch, "state_of", lambda one, runs: looked.append(one.id) or sweeps.state_of(one, runs))
    done(sweep.env.runs, *sweep.steps[:4])
    look = watch.Watch(sweep)
    looked.clear()
    look.look()
    assert looked == [sweep.steps[4].id]
    write_json(place(sweep.env.runs, sweep.steps[4]).path / "result.json", result(sweep.steps[4]))
    look.look(), looked.clear(), look.look()
    assert looked == []
