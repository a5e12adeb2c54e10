import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pruning.errors import UserError
from pruning.pipeline import watch
from pruning.pipeline.status import UNASKED, failure_text, known, status_text
from pruning.pipeline.sweep import Sweep
from pruning.runs import Run, Step, StepStatus, claims, records, status_of
from pruning.runs.jobs import JobRecord, record_jobs
from pruning.tracking.live import LiveTable, RichLiveTable, live_table
from tests.pipeline.made import chain, dead, place, step, sweep_of
from tests.runs.steps import taken

DENSE, PRUNED, TUNED = chain(0.3, 0, "finetune")
OTHER = chain(0.5, 0, "finetune")[1:]


@pytest.fixture(autouse=True)
def no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "code_version", lambda: {"commit": None, "dirty": None})


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """One dense network, two ratios: 5 steps, 2 of them wanted."""
    return sweep_of([(0.3, 0, "finetune"), (0.5, 0, "finetune")], tmp_path / "runs", "night")


def figures_of(one: Step) -> dict[str, Any]:
    counts = dict.fromkeys(("params", "params_nonzero", "prunable", "prunable_nonzero", "macs", "macs_nonzero"), 100)
    about = {"id": one.id, "stage": one.stage, "epochs": one.epochs, "seconds": 10.0, "before": None}
    sparsity = one.sparsity or 0.0
    return counts | about | {"sparsity": sparsity, "test_top1": 90 + 10 * sparsity}


def done(runs: Path, *steps: Step) -> None:
    for one in steps:
        place(runs, one, rows=one.epochs, result=figures_of(one))


def running(runs: Path, one: Step, epochs: int) -> claims.Claim:
    """Leave `one` as it is while it runs."""
    run = place(runs, one)
    rows = [{"epoch": i + 1, "train_loss": 2.5 / (i + 1), "test_top1": 50.0 + i} for i in range(epochs)]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return taken(run.path)


def fail(runs: Path, one: Step, log: Sequence[str] = ()) -> None:
    run = place(runs, one, failed={"error": "ValueError: no", "traceback": "ValueError: no", "when": 0.0})
    run.log.write_text("".join(line + "\n" for line in log))


# failures


def test_a_failure_is_shown_with_the_last_lines_of_its_log(tmp_path: Path) -> None:
    log = Run.for_step(TUNED, tmp_path).log

    def shown(*lines: str) -> bool:
        found = failure_text(TUNED, "no", tmp_path).splitlines()
        return found == [f"failed: {TUNED.name}: no", *lines, f"  log: {log}"]

    fail(tmp_path, TUNED, [f"line {i}" for i in range(20)])
    assert shown(*(f"  | line {i}" for i in range(15, 20)))
    log.write_bytes(b"one \xff\xfe")
    assert shown("  | one \ufffd\ufffd")
    log.unlink()
    assert shown()
    log.parent.rename(tmp_path / "elsewhere")
    log.parent.write_text("a file in the place of the directory")
    assert shown()


def test_failures_are_printed_and_what_is_left_is_counted(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    runs = sweep.env.runs
    done(runs, DENSE, PRUNED)
    fail(runs, TUNED, ["last words"])
    with pytest.raises(UserError, match=r"^3 of 5 steps are not done \(1 failed\); do this$"):
        watch.raise_for_failures(sweep, {TUNED.id: "ValueError: no"}, "do this")
    assert capsys.readouterr().err == failure_text(TUNED, "ValueError: no", runs) + "\n"
    done(runs, *sweep.steps)
    watch.raise_for_failures(sweep, {}, "do this")


# status_text


def blocks(runs: Path) -> list[list[str]]:
    return [block.splitlines() for block in status_text(runs).split("\n\n")]


def fields(line: str) -> list[str]:
    return re.split(r"  +", line)


def test_the_status_of_nothing(tmp_path: Path) -> None:
    assert status_text(tmp_path / "runs") == f"nothing has been run in {tmp_path / 'runs'} yet"
    assert not (tmp_path / "runs").exists()


def test_the_status_of_a_sweep_counts_and_lists_what_is_not_done_and_its_jobs(sweep: Sweep) -> None:
    runs = sweep.env.runs
    sweep.record()
    ((title, _, _, *rows),) = blocks(runs)
    assert title == f"{sweep.title}: 5 steps, 1 missing, 4 waiting"
    assert [fields(row) for row in rows[:2]] == [[DENSE.name, "missing"], [PRUNED.name, f"waiting: for {DENSE.id}"]]
    done(runs, DENSE)
    submitted = [JobRecord(job="12_0", steps=(DENSE.id,)), JobRecord(job="13_1", steps=(PRUNED.id, TUNED.id))]
    record_jobs(runs, submitted)
    assert [fields(row)[2:] for row in blocks(runs)[0][3:]] == [["job 13_1"], ["job 13_1"], [], [], []]
    done(runs, PRUNED)
    claim = running(runs, TUNED, epochs=2)
    fail(runs, OTHER[0], ["first", "last"])
    ((title, _, _, row, *rows),) = blocks(runs)
    assert title == f"{sweep.title}: 5 steps, 2 done, 1 failed, 1 not run, 1 running"
    assert re.fullmatch(rf"{TUNED.name}  +running at epoch 2: process .*", row)
    failed, lost = [OTHER[0].name, "failed: ValueError: no"], [OTHER[1].name, f"not run: {OTHER[0].id} failed"]
    assert [fields(row) for row in rows[:2]] == [failed, lost]
    assert rows[2:] == [*failure_text(OTHER[0], "ValueError: no", runs).splitlines(), UNASKED]
    claim.forget()
    dead(Run.for_step(TUNED, runs))
    assert "1 died" in blocks(runs)[0][0]
    assert "killed, or out of memory" in status_text(runs)
    done(runs, *sweep.steps)
    assert blocks(runs) == [[f"{sweep.title}: 5 steps, 5 done"]]


def test_sweeps_come_in_the_order_of_their_start_and_single_runs_last(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, clock = sweep.env.runs, iter([2.0, 1.0])
    monkeypatch.setattr(time, "time", lambda: next(clock))
    earlier = sweep_of([(0.3, 5, "train")], runs)
    sweep.record(), earlier.record()
    monkeypatch.undo()
    single = chain(0.9, 8, "finetune")
    for one in reversed(single):
        place(runs, one).write_config(one, {})
    done(runs, *single[:2])
    place(runs, DENSE).write_config(DENSE, {})  # of a sweep, so it is no single run
    titles = [f"{earlier.title}: 1 steps, 1 missing", f"{sweep.title}: 5 steps, 1 missing, 4 waiting"]
    assert [block[0] for block in blocks(runs)] == [*titles, "single runs: 3 steps, 2 done, 1 missing"]
    assert fields(blocks(runs)[-1][-1]) == [single[2].name, "missing"]


def test_known_steps_come_back_as_they_were_by_level_and_stage(tmp_path: Path) -> None:
    steps = [DENSE, *chain(0.3, 1, "train"), PRUNED, TUNED, step("prune", TUNED, percent=0.5)]
    for one in reversed(steps):
        place(tmp_path, one).write_config(one, {"code": None})
    assert known(tmp_path) == (sorted(steps[:2], key=lambda one: one.name) + steps[2:], [])


# LiveStatus


class Kept(LiveTable):
    def __init__(self) -> None:
        self.shown: list[Any] = []

    def show(self, ended: Sequence[str], running: Sequence[tuple[str, str, str]], summary: str) -> None:
        self.shown.append((list(ended), list(running), summary))


def test_each_end_is_shown_once_and_what_runs_and_what_is_done_is_not_looked_at_again(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def look(one: Step, runs: Path) -> StepStatus:
        looked.append(one.id)
        return status_of(one, runs)

    runs, title = sweep.env.runs, sweep.title
    done(runs, DENSE)
    live = watch.LiveStatus(sweep)
    table = live.table = Kept()
    monkeypatch.setattr(watch, "status_of", look)
    assert [status.state for status in live.refresh().values()] == ["missing"] * 4
    done(runs, PRUNED)
    claims_held = [running(runs, TUNED, 2), running(runs, OTHER[0], 0)]
    assert [status.state for status in live.refresh().values()] == ["running", "running", "missing"]
    for claim in claims_held:
        claim.forget()
    done(runs, TUNED, *OTHER)
    assert live.refresh() == {} == live.refresh()
    later = [TUNED, *OTHER]
    assert looked == [one.id for one in (PRUNED, *later, PRUNED, *later, *later)]
    ends = [f"[2/5] {PRUNED.name}: top-1 93.00 % at sparsity 0.300, 10 s"]
    runs_now = [(TUNED.name, "epoch 2/5", "loss 1.250 test 51.00 %"), (OTHER[0].name, "", "")]
    assert table.shown == [
        ([], [], f"{title}: 1 of 5 steps done, 0 running"),
        (ends, runs_now, f"{title}: 2 of 5 steps done, 2 running"),
        (table.shown[2][0], [], f"{title}: 5 of 5 steps done, 0 running"),
        ([], [], f"{title}: 5 of 5 steps done, 0 running"),
    ]
    begins = [f"[{i}/5] {one.name}" for i, one in enumerate(later, 3)]
    assert [line.partition(":")[0] for line in table.shown[2][0]] == begins


def test_outside_a_terminal_each_end_is_a_line(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    live = watch.LiveStatus(sweep)
    assert type(live.table) is LiveTable
    running(sweep.env.runs, DENSE, 3).forget()
    live.refresh()
    done(sweep.env.runs, DENSE)
    live.refresh(), live.refresh()
    live.close()
    ended = f"[1/5] {DENSE.name}: top-1 90.00 % at sparsity 0.000, 10 s"
    assert capsys.readouterr() == (ended + "\n", "")


@pytest.mark.parametrize("width", [20, 100])
def test_a_terminal_is_drawn_on(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"TERM": "xterm", "COLUMNS": str(width), "LINES": "5"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    table = live_table()
    assert type(table) is RichLiveTable
    for i in range(3):
        table.show([f"[{i}/50] [/] ended [bold]"], [("two", "epoch 1/5", "")] * 30, f"night: {i} of 50")
    table.close()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)
    assert "[2/50] [/] ended [bold]" in text
    if width == 100:
        for pattern in (r"┃ running +┃ how far +┃ figures ┃", r"│ two +│ epoch 1/5 │", "night: 2 of 50"):
            assert re.search(pattern, text), pattern


# sweep_text


def test_the_end_of_a_sweep_shows_the_cells_and_what_sharing_saved(sweep: Sweep) -> None:
    assert watch.sweep_text(sweep, 1.0).startswith("\nno cell is done\n\n0 of 2 cells are done; this call took 1.0 s.")
    runs = sweep.env.runs
    done(runs, DENSE, PRUNED, TUNED)
    text = watch.sweep_text(sweep, 12.34)
    assert "1 of 2 cells are done; this call took 12.3 s. The steps took 30.0 s of worker time" in text
    assert str(runs / TUNED.name) in text
    assert DENSE.name not in text
    done(runs, *OTHER)
    table, _, last = watch.sweep_text(sweep, 1.0).strip().rpartition("\n\n")
    assert len(table.splitlines()) == 4
    took = "The steps took 50.0 s of worker time; each cell alone, one after the other, would take 60.0 s."
    assert last.endswith(took)
