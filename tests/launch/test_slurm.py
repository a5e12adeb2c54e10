"""On a real SLURM of one node, which `tests/cluster/slurm-up.sh` installs and starts: for root on Debian.

Every model is compared byte by byte with that of one sweep made on this machine by the local launcher, undisturbed.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import psutil
import pytest

from pruning.runs import Run, claims, every
from pruning.runs.jobs import recorded_jobs
from pruning.runs.records import recorded_sweeps
from tests.archs.test_foreign import ODD
from tests.commands import ROOT, Command, Running, Server
from tests.execution.test_published import PUBLISHED
from tests.launch.on_slurm import (
    GPU,
    GRID,
    HOLD,
    ONE,
    SAFE,
    SLURM,
    WAIT,
    Submitter,
    about,
    equal_to,
    jobs,
    kill_controller,
    made,
    result_times,
    shell,
    start_all,
)
from tests.launch.processes import start, until

pytestmark = pytest.mark.slurm

# A sweep that nothing disturbs.


@dataclass(frozen=True)
class Clean:
    submitter: Submitter
    ended: subprocess.CompletedProcess[str]
    jobs: dict[str, dict[str, str]]  # what SLURM says of each


@pytest.fixture(scope="module")
def clean(submitters: Callable[[str], Submitter]) -> Clean:
    """The reference's sweep: arrays of which one task at a time may run, each with a GPU."""
    submitter = submitters("clean")
    environment = f'hydra.launcher.setup=["srun env > {submitter.home}/env-$SLURM_JOB_ID"]'
    done = submitter.submit(GPU, "hydra.launcher.array_parallelism=1", environment, WAIT, *GRID).wait()
    return Clean(submitter, done, {job: about(job) for job in jobs(submitter.runs)})


def test_a_sweep_on_slurm_gives_the_bytes_of_the_local_one(clean: Clean, reference: Path) -> None:
    assert clean.ended.returncode == 0, clean.ended.stderr
    assert equal_to(reference, clean.submitter.runs, 10)
    assert "submitted 6 tasks: jobs " in clean.ended.stdout
    assert "4 of 4 cells are done" in clean.ended.stdout


def test_a_shared_step_is_a_task_that_an_array_waits_for(clean: Clean) -> None:
    jobs = recorded_jobs(clean.submitter.runs)
    named = {run.path.name: jobs[run.path.name.rpartition("-")[2]].job for run in every(clean.submitter.runs)}
    of = {stage: {job for name, job in named.items() if name.startswith(stage)} for stage in ("train", "prune", "fine")}
    assert (len(of["train"]), len(of["prune"])) == (2, 4)
    assert of["prune"] == of["fine"]
    assert not of["prune"] & of["train"]
    assert len({record.job.partition("_")[0] for record in jobs.values()}) == 3


def overlap(a: dict[str, str], b: dict[str, str]) -> bool:
    return a["StartTime"] < b["EndTime"] and b["StartTime"] < a["EndTime"]  # whole seconds, as text


def test_an_array_keeps_to_its_limit(clean: Clean) -> None:
    pairs = combinations(clean.jobs.values(), 2)
    assert not [1 for a, b in pairs if a["ArrayJobId"] == b["ArrayJobId"] and overlap(a, b)]


def test_each_task_has_a_gpu_of_its_own(clean: Clean) -> None:
    def gpu(job: dict[str, str]) -> str:
        lines = (clean.submitter.home / f"env-{job['JobId']}").read_text().splitlines()
        return dict(line.partition("=")[::2] for line in lines)["CUDA_VISIBLE_DEVICES"]

    assert {gpu(job) for job in clean.jobs.values()} <= {"0", "1"}
    at_once = [{gpu(a), gpu(b)} for a, b in combinations(clean.jobs.values(), 2) if overlap(a, b)]
    assert at_once
    assert all(seen == {"0", "1"} for seen in at_once)


def test_a_relaunch_of_a_finished_sweep_submits_nothing(clean: Clean) -> None:
    before = result_times(clean.submitter.runs)
    done = clean.submitter.submit(WAIT, *GRID).wait()
    assert done.returncode == 0
    assert "submitted 0 tasks: nothing is missing" in done.stdout
    assert "4 of 4 cells are done" in done.stdout
    assert result_times(clean.submitter.runs) == before


def test_a_job_that_is_requeued_after_its_end_does_nothing(clean: Clean) -> None:
    runs, job = clean.submitter.runs, jobs(clean.submitter.runs)[-1]
    before, models = result_times(runs), made(runs)
    shell("scontrol", "requeue", job)
    until(lambda: (about(job)["Restarts"], about(job)["JobState"]) == ("1", "COMPLETED"))
    assert (result_times(runs), made(runs)) == (before, models)
    assert not list(runs.glob("*/claim-*"))


# A sweep that is disturbed.


@dataclass
class Disturbed:
    """Cells whose first job is caught in the middle of `stage`; then `disturb` is done to it."""

    overrides: tuple[str, ...]
    stage: str
    disturb: Callable[["Disturbed"], Any]
    submitter: Submitter = field(init=False)
    launch: Running = field(init=False)
    run: Run = field(init=False)
    pid: int = field(init=False)
    job: str = field(init=False)
    released: bool = False  # it gave its claim back, its state saved, and reported no failure

    def caught(self) -> bool:
        """Freeze the process that makes `stage` once it has saved an epoch, so that what follows needs no luck."""
        for saved in self.submitter.runs.glob(f"{self.stage}-*/resume.pt"):
            if holder := claims.held(saved.parent):
                self.run, self.pid, self.job = Run(saved.parent), holder["pid"], holder["job"]
                os.kill(self.pid, signal.SIGSTOP)
                assert not self.run.done, "it was faster"
                return True
        assert self.launch.status() is None, self.launch.printed()
        return False

    def end_first_attempt(self) -> None:
        self.disturb(self)
        until(lambda: not claims.held(self.run.path))
        self.released = self.run.resume.exists() and not self.run.failure() and not claims.abandoned(self.run.path)

    def thaw_with(self, number: signal.Signals) -> None:
        """Let the process go on once the signal is there; when SLURM preempts a job it does so itself."""
        until(lambda: self.pending(number) or not claims.held(self.run.path))
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def pending(self, number: signal.Signals) -> bool:
        with suppress(FileNotFoundError, ProcessLookupError):
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
            shared = next(line.split()[1] for line in lines if line.startswith("ShdPnd"))
            return bool(int(shared, 16) >> (number - 1) & 1)
        return False


class AtStart(Disturbed):
    """The signal comes while Python imports what the task needs, too early for any handler."""

    def caught(self) -> bool:
        logs = list(self.submitter.runs.glob(".sweeps/slurm/*/*.out"))
        if not logs or "Loading pickle" not in logs[0].read_text():
            return False
        (self.job,) = jobs(self.submitter.runs)
        shell("scancel", "--signal=USR2", self.job)
        return True

    def end_first_attempt(self) -> None:
        pass


def signalled(case: Disturbed) -> None:
    shell("scancel", "--signal=USR2", case.job)
    case.thaw_with(signal.SIGUSR2)


def requeued(case: Disturbed) -> None:
    shell("scontrol", "requeue", case.job)
    case.thaw_with(signal.SIGTERM)


def killed(case: Disturbed) -> None:
    os.kill(case.pid, signal.SIGKILL)


def preempted(number: signal.Signals) -> Callable[[Disturbed], None]:
    def disturb(case: Disturbed) -> None:
        shell("sbatch", "--partition=high", "--gpus-per-node=2", "--mem=16", "--output=/dev/null", "--wrap=sleep 1")
        case.thaw_with(number)

    return disturb


def timed_out(_case: Disturbed) -> None:
    """Wait for the time limit; SLURM lets the process go on when it signals it."""


LIMIT = ("hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=20")
NO_NOTICE = "hydra.launcher.additional={signal: TERM@60}"  # what SLURM sends where USR2 was not asked for


@pytest.fixture(scope="module")
def disturbed(submitters: Callable[[str], Submitter]) -> dict[str, Disturbed]:
    """All launched at once, each caught, then each disturbed: most of their time is waiting for SLURM."""
    cases = {
        "timed out": Disturbed((SAFE, *LIMIT, *ONE), "train", timed_out),
        "start": AtStart((SAFE, *ONE), "train", signalled),
        "signalled": Disturbed((SAFE, "prune.percent=0.3", "seed=0,1", "-m"), "train", signalled),
        "killed": Disturbed((SAFE, *ONE), "finetune", killed),
        "requeued": Disturbed((SAFE, *ONE), "train", requeued),
        "preempted": Disturbed((GPU, "prune.percent=0.3,0.5", "seed=0", "-m"), "train", preempted(signal.SIGUSR2)),
        "preempted without notice": Disturbed((GPU, NO_NOTICE, *ONE), "finetune", preempted(signal.SIGTERM)),
    }
    for name, case in cases.items():
        case.submitter = submitters(name.replace(" ", "-"))
        case.launch = case.submitter.submit(WAIT, *case.overrides)
    waiting = list(cases.values())

    def all_caught() -> bool:
        waiting[:] = [case for case in waiting if not case.caught()]
        return not waiting

    until(all_caught)
    for name, case in cases.items():
        if name != "timed out":  # which takes two minutes: its test waits
            case.end_first_attempt()
    return cases


def assert_done_once(case: Disturbed, reference: Path, steps: int) -> None:
    """All is made, each step once, and to the same bytes."""
    runs = case.submitter.runs
    assert equal_to(reference, runs, steps)
    for run in every(runs):
        log = run.log.read_text()
        assert log.count(": starts") == 1, log
        assert ("continues at" in log) == (run == case.run), log
    assert not [path.name for path in runs.glob("*/*") if path.name.startswith(("claim", "failed", "resume", "."))]


def assert_came_back(case: Disturbed, reference: Path, steps: int) -> None:
    done = case.launch.wait()
    assert done.returncode == 0, done.stderr
    assert case.released or case.disturb is timed_out
    assert int(about(case.job)["Restarts"]) >= 1
    assert_done_once(case, reference, steps)


def test_one_of_an_array_is_signalled_and_comes_back(disturbed: dict[str, Disturbed], reference: Path) -> None:
    case = disturbed["signalled"]
    assert_came_back(case, reference, 6)
    (other,) = set(jobs(case.submitter.runs)) - {case.job}
    assert about(other)["Restarts"] == "0"
    assert other.partition("_")[0] == case.job.partition("_")[0]


def test_a_signal_before_python_can_catch_it_does_not_lose_the_job(
    disturbed: dict[str, Disturbed], reference: Path
) -> None:
    case = disturbed["start"]
    done = case.launch.wait()
    assert done.returncode == 0, done.stderr
    (log,) = case.submitter.runs.glob(".sweeps/slurm/*/*.out")
    assert "User defined signal 2" in log.read_text()
    assert about(case.job)["Restarts"] == "1"
    assert equal_to(reference, case.submitter.runs, 3)


@pytest.mark.parametrize(("case", "steps"), [("requeued", 3), ("preempted", 5), ("preempted without notice", 3)])
def test_a_job_that_is_taken_from_its_node_comes_back_and_others_wait_for_it(
    disturbed: dict[str, Disturbed], reference: Path, case: str, steps: int
) -> None:
    assert_came_back(disturbed[case], reference, steps)


def test_a_killed_job_is_noticed_and_made_by_a_relaunch(disturbed: dict[str, Disturbed], reference: Path) -> None:
    case = disturbed["killed"]
    done = case.launch.wait()
    assert done.returncode == 1
    assert f"failed: {case.run.path.name}: its process exited without reporting" in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "error: 1 of 3 steps are not done (1 failed); the same command submits only what is missing"
    )
    status = case.submitter("stage=status").stdout
    assert "1 died, 2 done" in status
    assert f"job {case.job}" in status
    before = result_times(case.submitter.runs)
    assert len(before) == 2
    again = case.submitter.submit(WAIT, *case.overrides).wait()
    assert again.returncode == 0, again.stderr
    assert "submitted 1 task: jobs " in again.stdout
    assert before.items() <= result_times(case.submitter.runs).items()
    assert_done_once(case, reference, 3)


def test_the_published_system_killed_twice_and_launched_again(
    submitters: Callable[[str], Submitter], tmp_path: Path
) -> None:
    submitter = submitters("published")
    for stage in ("finetune", "distill"):
        case = Disturbed((SAFE, *PUBLISHED), stage, killed)
        case.submitter, case.launch = submitter, submitter.submit(WAIT, SAFE, *PUBLISHED)
        until(case.caught)
        case.end_first_attempt()
        assert case.launch.wait().returncode == 1
        assert not [run for run in every(submitter.runs) if run.path.name.startswith("distill") and run.done]
    done = submitter.submit(WAIT, SAFE, *PUBLISHED).wait()
    assert (done.returncode, done.stderr) == (0, "")
    local = submitter(*submitter.recipe, *PUBLISHED, runs=tmp_path)
    assert local.returncode == 0, local.stderr
    assert equal_to(tmp_path, submitter.runs, 5)


def test_a_network_from_a_file_outside_the_project(submitters: Callable[[str], Submitter], tmp_path: Path) -> None:
    shutil.copy(ODD, file := tmp_path / "mine.py")
    network = ("arch._target_=Odd", f"arch.file={file}", "arch.width=4")
    submitter = submitters("foreign")
    done = submitter.submit(WAIT, *network, *GRID).wait()
    assert (done.returncode, done.stderr) == (0, "")
    local = submitter(*submitter.recipe, *network, *GRID, runs=tmp_path / "runs")
    assert local.returncode == 0, local.stderr
    assert equal_to(tmp_path / "runs", submitter.runs, 10)


# What happens while jobs wait in the queue.


def test_a_relaunch_submits_nothing_twice(submitters: Callable[[str], Submitter]) -> None:
    submitter = submitters("queued")
    more = ("prune.percent=0.3,0.5,0.8", "seed=0,1", "-m")

    def launched(*overrides: str) -> str:
        done = submitter.submit(HOLD, *overrides).wait()
        assert done.returncode == 0, done.stderr
        return done.stdout

    def queued() -> set[str]:
        return set(shell("squeue", "--noheader", "--array", "--format=%i").split()) & set(jobs(submitter.runs))

    assert "submitted 6 tasks" in launched(*GRID)
    assert len(queued()) == 6
    assert "submitted 0 tasks: what is missing is queued already" in launched(*GRID)
    assert len(queued()) == 6
    # the new cells wait for the dense networks that are queued
    assert "submitted 2 tasks" in launched(*more)
    job_of = recorded_jobs(submitter.runs)
    sweeps, _ = recorded_sweeps(submitter.runs)
    trains = [job_of[step.id].job for step in sweeps[-1].steps if step.stage == "train"]
    waits = {about(job)["Dependency"].partition("(")[0] for job in jobs(submitter.runs)[-2:]}
    assert waits == {f"afterok:{job}" for job in trains}
    # what waits for a job that will not succeed must be submitted again
    shell("scancel", trains[0])
    assert "submitted 4 tasks" in launched(*more)


@pytest.mark.parametrize("snapshot", ["false", "true"])
def test_what_is_edited_while_a_job_waits_does_not_change_it(
    submitters: Callable[[str], Submitter], reference: Path, tmp_path: Path, snapshot: str
) -> None:
    """A job reads no YAML and nothing of the launchers; with a snapshot nothing of this code either."""
    submitter = submitters("edited")
    for part in ("conf", "pruning", "hydra_plugins"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "main.py", tmp_path)
    places = (f"env.runs={submitter.runs}", "env.device=cpu", "env.threads=1")
    overrides = (*places, *submitter.recipe, *SLURM, HOLD, f"hydra.launcher.snapshot={snapshot}", *ONE)
    command = [sys.executable, "main.py", *overrides]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "submitted 1 task" in done.stdout
    shutil.rmtree(tmp_path / "conf")
    broken = ["main.py", "hydra_plugins/pruning_hydra/__init__.py"]
    for name in broken + (["pruning/__init__.py"] if snapshot == "true" else []):
        (tmp_path / name).write_text('raise RuntimeError("edited")\n')
    (job,) = jobs(submitter.runs)
    shell("scontrol", "release", job)
    until(lambda: about(job)["JobState"] in ("COMPLETED", "FAILED"))
    assert equal_to(reference, submitter.runs, 3)


# A cell that fails.


def test_a_failure_costs_its_dependants_and_nothing_else(
    submitters: Callable[[str], Submitter], reference: Path
) -> None:
    submitter = submitters("failing")
    runs = submitter.runs
    (broken,) = (runs / name for name in made(reference) if name.startswith("train-") and "-s0-" in name)
    broken.mkdir(parents=True)
    (broken / "resume.pt").write_bytes(b"PK torn by a crash of the disk")
    done = submitter.submit(WAIT, *GRID).wait()
    assert done.returncode == 1
    error = f"{broken / 'resume.pt'} cannot be read"
    assert f"failed: {broken.name}: {error}" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: 5 of 10 steps are not done (1 failed)")
    assert "2 of 4 cells are done" in done.stdout
    assert equal_to(reference, runs, 5)
    states = sorted(about(job)["JobState"] for job in jobs(runs))
    assert states == ["CANCELLED"] * 2 + ["COMPLETED"] * 3 + ["FAILED"]
    status = submitter("stage=status").stdout
    for text in ("5 done, 1 failed, 4 not run", f"failed: {broken.name}: {error}", f"UserError: {error}"):
        assert text in status


def test_what_slurm_refuses_is_said_in_one_line(submitters: Callable[[str], Submitter]) -> None:
    done = submitters("refused").submit("hydra.launcher.partition=nope", *ONE).wait()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: SLURM refuses the tasks: invalid partition specified: nope; ")


# Two minutes, most of which have passed by now.


def test_a_job_that_is_timed_out_comes_back(disturbed: dict[str, Disturbed], reference: Path) -> None:
    case = disturbed["timed out"]
    assert_came_back(case, reference, 3)
    assert "Job has timed out" in case.run.log.read_text()


# What is added from outside, in jobs too.


def test_a_stage_with_two_inputs_after_three_levels(submitters: Callable[[str], Submitter], tmp_path: Path) -> None:
    submitter = submitters("toy")
    toy = ("env.imports=[tests.extension.toy]", "stage.name=average", "+average.share=0.6", "seed=0,1", "-m")
    levels = ("levels=iterative", "prune.percent=0.8")
    done = submitter.submit(*levels, WAIT, *toy).wait()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(jobs(submitter.runs)) == 2  # a chain is one task
    local = submitter(*submitter.recipe, *levels, *toy, runs=tmp_path)
    assert local.returncode == 0, local.stderr
    assert equal_to(tmp_path, submitter.runs, 2 * 8)


# What status and wait=true say, and what people do to jobs.


def test_a_failure_before_python_is_shown_with_its_reason_and_log(submitters: Callable[[str], Submitter]) -> None:
    submitter = submitters("before-python")
    done = submitter.submit('hydra.launcher.setup=["echo no module; exit 3"]', WAIT, *ONE).wait()
    (job,) = jobs(submitter.runs)
    log = submitter.runs / ".sweeps" / "slurm" / job / f"{job}_0_log.out"
    assert done.returncode == 1
    for text in (done.stderr, submitter("stage=status").stdout):
        assert f"job {job} FAILED on " in text
        assert f"(exit 3)\n  | no module\n  log: {log}" in text


def test_status_asks_the_queue_and_a_relaunch_after_scancel_submits(
    submitters: Callable[[str], Submitter], reference: Path
) -> None:
    submitter = submitters("cancelled")
    assert submitter.submit(HOLD, *ONE).wait().returncode == 0
    (job,) = jobs(submitter.runs)
    assert f"held: job {job} PENDING (JobHeldUser, scontrol release {job})" in submitter("stage=status").stdout
    shell("scontrol", "release", job)
    until(lambda: list(submitter.runs.glob("train-*/metrics.jsonl")))
    shell("scancel", job)
    again = submitter.submit(WAIT, *ONE).wait()  # while the first is completing
    assert again.returncode == 0, again.stderr
    assert "submitted 1 task: jobs " in again.stdout
    assert equal_to(reference, submitter.runs, 3)


def test_two_launches_at_once_submit_once(submitters: Callable[[str], Submitter]) -> None:
    submitter = submitters("at-once")
    both = [submitter.submit(HOLD, *GRID) for _ in range(2)]
    printed = sorted(one.wait().stdout for one in both)
    assert len(jobs(submitter.runs)) == 6
    assert sum("submitted 6 tasks" in text for text in printed) == 1
    assert sum("what is missing is queued already" in text for text in printed) == 1


def test_a_signal_that_asks_a_job_to_stop_leaves_none_asleep(submitters: Callable[[str], Submitter]) -> None:
    submitter = submitters("told-to-stop")
    launch = submitter.submit(WAIT, SAFE, 'hydra.launcher.setup=["set -e"]', *ONE)
    launch.until(lambda: list(submitter.runs.glob("train-*/resume.pt")))
    (job,) = jobs(submitter.runs)
    shell("scancel", "--signal=TERM", job)
    assert launch.wait().returncode == 1
    assert (about(job)["JobState"], about(job)["ExitCode"]) == ("FAILED", "143:0")
    assert "(exit 143)" in submitter("stage=status").stdout


def test_several_cells_are_one_task_with_a_name_and_its_processors(
    submitters: Callable[[str], Submitter], reference: Path
) -> None:
    submitter = submitters("bundled")
    many = ("hydra.launcher.cells_per_task=4", "hydra.launcher.cpus_per_task=2", "env.threads=1")
    lines = f"hydra.launcher.setup=[\"srun sh -c 'scontrol show step $SLURM_JOB_ID.0 > {submitter.home}/step'\"]"
    done = submitter.submit(WAIT, *many, lines, *GRID).wait()
    assert done.returncode == 0, done.stderr
    (job,) = jobs(submitter.runs)
    assert about(job)["JobName"].startswith("finetune-image_folder-resnet20-p0.3_0.5-s0_1")
    assert "CPUs=2" in (submitter.home / "step").read_text()
    assert equal_to(reference, submitter.runs, 10)


def test_without_a_controller_nothing_is_written(submitters: Callable[[str], Submitter], tmp_path: Path) -> None:
    submitter = submitters("no-controller")
    conf = tmp_path / "slurm.conf"
    text = Path("/etc/slurm/slurm.conf").read_text()
    conf.write_text(text + "SlurmctldPort=6999\n")
    done = submitter.start(*submitter.recipe, *SLURM, *ONE, SLURM_CONF=str(conf)).wait()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "controller does not answer" in done.stderr
    assert not list(submitter.runs.glob(".sweeps/*"))


# Chaos.

CHAOS = (*GRID[:2], "train.epochs=60", "finetune.epochs=40")  # steps of some seconds
SEEDS = [int(seed) for seed in os.environ.get("CHAOS_SEEDS", "0").split(",")]
LEAST = 12  # events


@dataclass
class Chaos:
    """A sweep on SLURM, and what can happen to it; each event needs a job that runs, and says whether there was one."""

    submitter: Submitter
    chance: random.Random
    first: dict[str, int] = field(default_factory=dict)  # when each result was seen first
    registered: float = 0.0  # when nodes were last asked what they run

    def launch(self, *more: str) -> subprocess.CompletedProcess[str]:
        return self.submitter.submit(*CHAOS, *more, "-m").wait()

    def repair(self) -> None:
        """Do what is an administrator's: a controller that was killed before it saved that a job has started takes the
        node for broken, and holds the job.
        """
        if shell("sinfo", "--noheader", "--format=%t").split()[0] in ("drain", "drng"):
            shell("scontrol", "update", f"nodename={self.node()}", "state=resume")
        self.lay_ghosts()
        mine = self.live("PENDING")
        for line in shell("squeue", "--noheader", "--array", "--Format=JobArrayID:|,Reason:|").splitlines():
            job, reason, _ = line.split("|")
            if job in mine and reason == "launch failed requeued held":
                told = f": job {job} PENDING ({reason}, scontrol release {job})"
                assert told in self.submitter("stage=status").stdout
                shell("scontrol", "release", job)

    def lay_ghosts(self) -> None:
        """Have nodes say what they run, where SLURM shows a job that has no process.

        A controller that was killed before it saved that a job has ended believes that it runs. It asks nodes when it
        starts, but jobs younger than 10 s are left as they are then, and it does not ask again soon.
        """
        running = shell("squeue", "--noheader", "--array", "--states=RUNNING", "--format=%A").split()
        steps = " ".join(" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
        if any(f"[{job}." not in steps for job in running) and time.monotonic() > self.registered + 15:
            self.registered = time.monotonic()
            shell("scontrol", "reconfigure")

    def node(self) -> str:
        return shell("sinfo", "--noheader", "--format=%n").split()[0]

    def end(self) -> None:
        def over() -> bool:
            self.repair()
            return not self.live()

        until(over)

    def look(self) -> int:
        """Hold what is done to what was done before: nothing is made twice. Return how many steps that is."""
        now = result_times(self.submitter.runs)
        assert self.first.items() <= now.items()
        self.first = now
        return len(now)

    def live(self, state: str = "RUNNING,PENDING,COMPLETING,REQUEUED") -> list[str]:
        """Return the jobs of these runs in a state, as squeue has them."""
        mine = {job.partition("_")[0] for job in jobs(self.submitter.runs)}
        command = ["squeue", "--me", "--noheader", "--array", f"--states={state}", "--format=%i"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
        return sorted(job for job in answer if job.partition("_")[0] in mine)

    def running(self) -> str | None:
        """Return a job that runs, when there is one; None if none is left."""
        found: list[str] = []

        def looked() -> bool:
            self.repair()
            found[:] = self.live("RUNNING")
            return bool(found) or not self.live()

        until(looked)
        return self.chance.choice(found) if found else None

    def pause(self) -> None:
        time.sleep(self.chance.choice([0, 0.3, 2]) * self.chance.random())  # a moment that nobody chose

    def holder(self) -> int | None:
        held = [claims.held(run.path) for run in every(self.submitter.runs) if not run.done]
        pids = [one["pid"] for one in held if one]
        return self.chance.choice(pids) if pids else None

    def cancel(self, job: str) -> None:
        shell("scancel", job)

    def cancel_and_relaunch(self, job: str) -> None:
        shell("scancel", job)
        self.launch()

    def kill(self, _job: str) -> None:
        if pid := self.holder():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def usr2(self, job: str) -> None:
        subprocess.run(["scancel", "--signal=USR2", job], check=False, capture_output=True)

    def term(self, job: str) -> None:
        subprocess.run(["scancel", "--signal=TERM", job], check=False, capture_output=True)

    def requeue(self, job: str) -> None:
        subprocess.run(["scontrol", "requeue", job], check=False, capture_output=True)

    def preempt(self, _job: str) -> None:
        shell("sbatch", "--partition=high", "--cpus-per-task=8", "--mem=16", "--output=/dev/null", "--wrap=sleep 1")

    def drain(self, _job: str) -> None:
        shell("scontrol", "update", f"nodename={self.node()}", "state=drain", "reason=test")
        self.pause()
        shell("scontrol", "update", f"nodename={self.node()}", "state=resume")

    def restart(self, _job: str) -> None:
        """Kill the controller, and start it again."""
        kill_controller()
        self.pause()
        start_all()

    def tear(self, _job: str) -> None:
        with (self.submitter.runs / ".sweeps" / "jobs.jsonl").open("a") as file:
            file.write('{"job": "12", "ste\n')


EVENTS = ("cancel", "cancel_and_relaunch", "kill", "usr2", "term", "requeue", "preempt", "drain", "restart", "tear")


@pytest.mark.parametrize("seed", SEEDS)
def test_chaos_ends_in_equal_bytes_and_each_step_is_made_once(
    submitters: Callable[[str], Submitter], server: Server, recipe: tuple[str, ...], tmp_path: Path, seed: int
) -> None:
    command = Command(tmp_path, server)
    assert start(command, *recipe, "hydra.launcher.workers=2", *CHAOS).wait().returncode == 0
    expected, chance = made(command.runs), random.Random(seed)
    assert len(expected) == 10
    events = [*EVENTS, *chance.choices(EVENTS, k=LEAST - len(EVENTS) + chance.randint(0, 3))]
    chance.shuffle(events)
    ended: list[tuple[str, int]] = []
    all_chaos = [Chaos(submitters(f"chaos-{seed}"), chance)]
    while events:
        chaos = all_chaos[-1]
        if not chaos.live():
            if chaos.look() == len(expected):  # done before all has happened: the rest happens to another sweep
                all_chaos.append(chaos := Chaos(submitters(f"chaos-{seed}-{len(all_chaos)}"), chance))
            assert chaos.launch().returncode == 0, ended
        chaos.pause()
        if job := chaos.running():
            ended.append((events[-1], chaos.look()))
            getattr(chaos, events.pop())(job)
            chaos.look()
    for chaos in all_chaos:
        chaos.end()
        for _ in range(5):  # what was cancelled or killed is submitted again
            done = chaos.launch(WAIT)
            if done.returncode == 0:
                break
        assert done.returncode == 0, (ended, done.stderr)
        assert chaos.look() == len(expected)
        assert made(chaos.submitter.runs) == expected, ended
    assert len(ended) >= LEAST
