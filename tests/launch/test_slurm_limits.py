"""What a real SLURM refuses, and what happens when its controller is away."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pruning.files import read_json
from pruning.runs import claims, every
from pruning.runs.jobs import recorded_jobs
from tests.launch.on_slurm import (
    GPU,
    GRID,
    HOLD,
    ONE,
    SAFE,
    WAIT,
    Submitter,
    about,
    configured,
    equal_to,
    jobs,
    kill_controller,
    shell,
    start_all,
)
from tests.launch.processes import until

pytestmark = pytest.mark.slurm

FIVE = ("prune.percent=0.3,0.4,0.5,0.6,0.7", "seed=0", "stage=prune", "-m")  # after one that they share


@pytest.mark.parametrize(("largest", "arrays"), [(2, 3), (0, 5)])
def test_more_cells_than_an_array_can_have_are_several(
    submitters: Callable[[str], Submitter], largest: int, arrays: int
) -> None:
    submitter = submitters(f"largest-{largest}")
    with configured(f"MaxArraySize={largest}"):
        done = submitter.submit(WAIT, *FIVE).wait()
        assert done.returncode == 0, done.stderr
        again = submitter.submit(WAIT, *FIVE).wait()
    assert "submitted 6 tasks: jobs " in done.stdout
    assert "5 of 5 cells are done" in done.stdout
    assert len(jobs(submitter.runs)) == len(set(jobs(submitter.runs))) == len(recorded_jobs(submitter.runs)) == 6
    assert len({job.partition("_")[0] for job in jobs(submitter.runs)}) == 1 + arrays
    assert all(run.done and run.log.read_text().count(": starts") == 1 for run in every(submitter.runs))
    assert "submitted 0 tasks: nothing is missing" in again.stdout


def test_a_device_that_only_the_nodes_have_is_for_them_to_refuse(submitters: Callable[[str], Submitter]) -> None:
    """The nodes here have none either."""
    submitter = submitters("no-gpu")
    done = submitter.submit(WAIT, GPU, SAFE, "env.device=cuda", *ONE).wait()
    error = "env.device=cuda: this machine has 0 CUDA devices; try env.device=auto"
    assert "submitted 1 task: jobs " in done.stdout
    assert done.returncode == 1
    (dense,) = submitter.runs.glob("train-*")
    assert f"failed: {dense.name}: {error}\n" in done.stderr
    assert (read_json(dense / "failed.json") or {})["error"] == error
    assert error in submitter("stage=status").stdout


def test_a_launch_that_waits_outlasts_the_controller(submitters: Callable[[str], Submitter], reference: Path) -> None:
    submitter = submitters("controller")
    launch = submitter.submit(WAIT, SAFE, *ONE)
    caught: list[int] = []

    def frozen() -> bool:
        for saved in submitter.runs.glob("train-*/resume.pt"):
            if holder := claims.held(saved.parent):
                os.kill(holder["pid"], signal.SIGSTOP)
                caught.append(holder["pid"])
        return bool(caught)

    launch.until(frozen)
    until(lambda: "State:\tT" in Path(f"/proc/{caught[0]}/status").read_text())
    kill_controller(signal.SIGTERM)  # one that is killed before it has saved its state ends the job when it is back
    try:
        launch.until(lambda: "SLURM does not answer; it is asked again until it does" in launch.printed())
    finally:
        start_all()
        os.kill(caught[0], signal.SIGCONT)
    done = launch.wait()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("SLURM does not answer") == 1
    assert "1 of 1 cells are done" in done.stdout
    assert equal_to(reference, submitter.runs, 3)
    assert [about(job)["Restarts"] for job in jobs(submitter.runs)] == ["0"]


def test_what_was_submitted_before_a_refusal_is_not_submitted_again(
    submitters: Callable[[str], Submitter], reference: Path
) -> None:
    """SLURM's sbatch itself tries for two minutes to get a job into a full queue."""
    submitter = submitters("partly")
    known = len(shell("squeue", "--noheader", "--array", "--states=all").splitlines())
    with configured(f"MaxJobCount={known + 5}"):  # room for two dense networks and the cells of one
        done = submitter.submit(HOLD, *GRID).wait()
    first = jobs(submitter.runs)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert len(first) in (2, 4)
    arrays = ", ".join(dict.fromkeys(job.partition("_")[0] for job in first))
    assert done.stderr.startswith("error: SLURM refuses the tasks: ")
    told = f"; {len(first)} of 6 tasks were submitted before that (jobs {arrays}); the same command submits the rest\n"
    assert done.stderr.endswith(told)
    again = submitter.submit(HOLD, *GRID).wait()
    assert f"submitted {6 - len(first)} tasks: jobs " in again.stdout, again.stderr
    assert jobs(submitter.runs)[: len(first)] == first
    assert len(jobs(submitter.runs)) == len(set(jobs(submitter.runs))) == 6
    assert len(recorded_jobs(submitter.runs)) == 10
    shell("scontrol", "release", *jobs(submitter.runs))
    done = submitter.submit(WAIT, *GRID).wait()
    assert done.returncode == 0, done.stderr
    assert "submitted 0 tasks" in done.stdout
    assert equal_to(reference, submitter.runs, 10)
    assert all(run.log.read_text().count(": starts") == 1 for run in every(submitter.runs))
