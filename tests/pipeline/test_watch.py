import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pruning.errors import UserError
from pruning.pipeline import watch
from pruning.pipeline.status import failure_text
from pruning.pipeline.sweep import Sweep
from pruning.runs import Step, StepStatus, status_of
from pruning.tracking.live import LiveTable, RichLiveTable, live_table
from tests.pipeline.made import DENSE, OTHER, PRUNED, TUNED, done, fail, running

pytestmark = pytest.mark.usefixtures("no_git")


# failures


def test_failures_are_printed_and_what_is_left_is_counted(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    runs = sweep.env.runs
    done(runs, DENSE, PRUNED)
    fail(runs, TUNED, ["last words"])
    with pytest.raises(UserError, match=r"^3 of 5 steps are not done \(1 failed\); do this$"):
        watch.raise_for_failures(sweep, {TUNED.id: "ValueError: no"}, "do this")
    assert capsys.readouterr().err == failure_text(TUNED, "ValueError: no", runs) + "\n"
    done(runs, *sweep.steps)
    watch.raise_for_failures(sweep, {}, "do this")


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
