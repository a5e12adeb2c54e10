import os
import socket
import time
from pathlib import Path

import pytest

from pruning.files import write_json
from pruning.runs import Run, Step, StepState, StepStatus, claims, status_of, statuses
from tests.runs.steps import DENSE, PRUNED, TUNED, dead, place, step, taken

OTHER = step("prune", DENSE, percent=0.5)
OTHER_TUNED = step("finetune", OTHER, epochs=1, lr=0.01)


def test_the_life_of_a_step(tmp_path: Path) -> None:
    def status() -> StepStatus:
        return status_of(TUNED, tmp_path)

    assert status() == StepStatus(StepState.MISSING)
    run = place(tmp_path, TUNED)
    assert status() == StepStatus(StepState.MISSING)
    claim = taken(run.path)
    place(tmp_path, TUNED, rows=2)
    assert status() == StepStatus(StepState.RUNNING, 2, f"process {os.getpid()} on {socket.gethostname()}")
    assert str(status()).startswith("running at epoch 2: process ")
    claim.release()
    assert str(status()) == "missing at epoch 2"  # nothing was saved
    run.resume.touch()
    assert status() == StepStatus(StepState.PARTLY_DONE, 2)
    place(tmp_path, TUNED, failed={"error": "ValueError: no", "traceback": "...\nValueError: no", "when": 0.0})
    assert str(status()) == "failed at epoch 2: ValueError: no"
    again = taken(run.path)
    assert status().state == StepState.RUNNING  # the next attempt
    (run.path / "failed.json").unlink()
    again.forget()
    dead(run)
    reason = "its process exited without reporting (killed, or out of memory)"
    assert status() == StepStatus(StepState.DIED, 2, reason)
    place(tmp_path, TUNED, result={})
    assert status() == StepStatus(StepState.DONE, TUNED.epochs)
    assert str(status()) == "done"


def test_a_claim_of_another_machine_counts_as_long_as_it_beats(tmp_path: Path) -> None:
    run = place(tmp_path, DENSE)
    write_json(run.path / "claim-1", claims.identity() | {"host": "elsewhere", "job": "12_3"})
    assert status_of(DENSE, tmp_path).detail == f"process {os.getpid()} on elsewhere (SLURM job 12_3)"
    past = time.time() - claims.PATIENCE - 5
    os.utime(run.path / "claim-1", (past, past))
    assert status_of(DENSE, tmp_path).state == StepState.DIED


def test_a_torn_line_is_no_epoch_and_a_file_no_step(tmp_path: Path) -> None:
    run = place(tmp_path, DENSE, rows=3)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "train_lo')
    assert status_of(DENSE, tmp_path) == StepStatus(StepState.MISSING, 3)
    Run.for_step(PRUNED, tmp_path).path.write_text("in the way of the directory")
    assert status_of(PRUNED, tmp_path) == StepStatus(StepState.MISSING)


def test_steps_wait_for_what_is_not_done(tmp_path: Path) -> None:
    steps = (DENSE, PRUNED, TUNED, OTHER, OTHER_TUNED)

    def found(*steps: Step) -> list[str]:
        return [str(status) for status in statuses(steps, tmp_path).values()]

    waiting = [f"waiting: for {step.parent}" for step in steps[1:]]
    assert found(*steps) == ["missing", *waiting]
    place(tmp_path, DENSE, rows=1).resume.touch()
    assert found(*steps) == ["partly done at epoch 1", *waiting]
    place(tmp_path, DENSE, result={})
    assert found(*steps) == ["done", "missing", waiting[1], "missing", waiting[3]]
    place(tmp_path, PRUNED, result={})
    place(tmp_path, TUNED, failed={"error": "no"})
    assert found(*steps) == ["done", "done", "failed: no", "missing", waiting[3]]
    assert found(TUNED, OTHER_TUNED) == ["failed: no", "missing"]  # the parent is not among these


@pytest.mark.parametrize("end", [StepState.FAILED, StepState.DIED])
def test_what_starts_from_a_failure_is_not_run(tmp_path: Path, end: StepState) -> None:
    if end == StepState.FAILED:
        place(tmp_path, DENSE, failed={"error": "no"})
    else:
        dead(place(tmp_path, DENSE))
    first, *others = statuses((DENSE, PRUNED, TUNED), tmp_path).values()
    assert first.state == end
    assert [status.state for status in others] == [StepState.BLOCKED] * 2
    assert [str(status) for status in others] == [f"not run: {parent.id} failed" for parent in (DENSE, PRUNED)]
