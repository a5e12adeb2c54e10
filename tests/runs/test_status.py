import os
import socket
from pathlib import Path

from pruning.runs import Run, Step, StepState, StepStatus, status_of, statuses
from tests.runs.steps import DENSE, PRUNED, TUNED, dead, place, step, taken

OTHER = step("prune", DENSE, percent=0.5)
OTHER_TUNED = step("finetune", OTHER, epochs=1, lr=0.01)


def test_the_life_of_a_step(tmp_path: Path) -> None:
    def status() -> StepStatus:
        return status_of(TUNED, tmp_path)

    assert status() == StepStatus(StepState.MISSING)
    run = Run.for_step(TUNED, tmp_path)
    run.path.write_text("in the way of the directory")
    assert status() == StepStatus(StepState.DAMAGED, detail=f"{run.path} is damaged: it is no directory; delete it")
    run.path.unlink()
    place(tmp_path, TUNED)
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


def test_what_starts_from_a_failure_is_not_run(tmp_path: Path) -> None:
    dead(place(tmp_path / "died", DENSE))
    place(tmp_path / "failed", DENSE, failed={"error": "no"})
    waiting = [f"not run: {parent.id} failed" for parent in (DENSE, PRUNED)]
    for end in (StepState.FAILED, StepState.DIED):
        first, *others = statuses((DENSE, PRUNED, TUNED), tmp_path / end.name.lower()).values()
        assert (first.state, {status.state for status in others}) == (end, {StepState.BLOCKED})
        assert [str(status) for status in others] == waiting
