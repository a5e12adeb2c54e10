import json
from pathlib import Path

import pytest

from pruning.runs import StepState, statuses
from pruning.runs.jobs import JOBS, JobRecord, record_jobs, recorded_jobs
from pruning.runs.records import FOLDER
from pruning.runs.seen import JobSeen
from tests.runs.steps import DENSE, PRUNED, STEPS, TUNED, dead, place


def record(job: str, *steps: str) -> JobRecord:
    return JobRecord(job=job, steps=steps, cluster="one", names=("a", "b"), after="3", when=1.0)


def test_the_job_that_was_submitted_last_counts(tmp_path: Path) -> None:
    assert recorded_jobs(tmp_path) == {}
    first, second, last = record("7_0", DENSE.id, PRUNED.id), record("7_1", TUNED.id), record("9", PRUNED.id)
    record_jobs(tmp_path, [first, second])
    record_jobs(tmp_path, [last])
    assert recorded_jobs(tmp_path) == {DENSE.id: first, PRUNED.id: last, TUNED.id: second}


@pytest.mark.parametrize(
    "torn", ['{"job": "8", "ste', "{", '"', '{"job": "../x", "steps": ["r1"]}', '{"job": 8}', "[]"]
)
def test_a_torn_or_odd_line_costs_itself_only(tmp_path: Path, torn: str) -> None:
    record_jobs(tmp_path, [record("7", DENSE.id)])
    with (tmp_path / FOLDER / JOBS).open("a") as file:
        file.write(torn)
    record_jobs(tmp_path, [record("9", TUNED.id)])
    assert {id: found.job for id, found in recorded_jobs(tmp_path).items()} == {DENSE.id: "7", TUNED.id: "9"}


def test_the_records_of_0_2_are_read(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / JOBS).write_text(json.dumps({"job": "7_0", "steps": [DENSE.id], "when": 5.0}) + "\n")
    assert recorded_jobs(tmp_path) == {DENSE.id: JobRecord(job="7_0", steps=(DENSE.id,), when=5.0)}


def seen(state: str, alive: bool = False, **more: object) -> JobSeen:
    return JobSeen(job="7", state=state, alive=alive, since=100.0, ended=0.0 if alive else 200.0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("job", "state"),
    [
        (seen("PENDING", True, reason="Resources"), StepState.PENDING),
        (seen("PENDING", True, reason="JobHeldUser"), StepState.HELD),
        (seen("RUNNING", True, node="n1"), StepState.STARTING),
        (seen("CANCELLED by 0"), StepState.CANCELLED),
        (seen("OUT_OF_MEMORY", exit="signal 9"), StepState.FAILED),
        (seen("COMPLETED"), StepState.FAILED),
    ],
)
def test_what_the_queue_said_is_shown_of_a_step_that_left_nothing(
    tmp_path: Path, job: JobSeen, state: StepState
) -> None:
    found = statuses(STEPS, tmp_path, dict.fromkeys((step.id for step in STEPS), job))
    assert found[DENSE.id].state == state
    assert str(job) in found[DENSE.id].detail
    waits = {StepState.HELD: StepState.HELD}.get(state, StepState.WAITING if job.alive else StepState.BLOCKED)
    assert found[TUNED.id].state == waits


def test_what_is_newer_counts(tmp_path: Path) -> None:
    def state(when: float, job: JobSeen) -> StepState:
        place(tmp_path, DENSE, failed={"error": "no", "traceback": "", "when": when})
        return statuses([DENSE], tmp_path, {DENSE.id: job})[DENSE.id].state

    assert state(50.0, seen("PENDING", True)) == StepState.PENDING  # submitted again
    assert state(50.0, seen("CANCELLED")) == StepState.CANCELLED
    assert state(150.0, seen("FAILED", exit="exit 1")) == StepState.FAILED
    assert statuses([DENSE], tmp_path, {DENSE.id: seen("FAILED")})[DENSE.id].detail == "no"


def test_a_process_that_died_in_a_job_is_shown_with_it(tmp_path: Path) -> None:
    dead(place(tmp_path, DENSE))
    status = statuses([DENSE], tmp_path, {DENSE.id: seen("OUT_OF_MEMORY")})[DENSE.id]
    assert status.state == StepState.DIED
    assert status.detail.endswith("; job 7 OUT_OF_MEMORY")
