import re
import time
from pathlib import Path

import pytest

from pruning.pipeline.status import UNASKED, failure_text, known, status_text
from pruning.pipeline.sweep import Sweep
from pruning.runs import Run
from pruning.runs.jobs import JobRecord, record_jobs
from tests.pipeline.made import DENSE, OTHER, PRUNED, TUNED, chain, dead, done, fail, place, running, step, sweep_of

pytestmark = pytest.mark.usefixtures("no_git")


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
