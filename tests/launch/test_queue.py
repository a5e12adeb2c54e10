"""What SLURM prints, read without a SLURM; and what goes into one job."""

from pathlib import Path
from typing import Any

import pytest

from pruning.cluster.queue import FIELDS, as_seen, exit_text, ours, row_of, split
from pruning.env import Env
from pruning.errors import UserError
from pruning.launch.bundles import bundles, ends, job_name
from pruning.launch.slurm_settings import SlurmSettings, resolve_precision
from pruning.runs.jobs import JobRecord
from tests.pipeline.made import sweep_of

TEXT = """5|CANCELLED|Dependency|0|100|150||finetune-s0|
4_0|FAILED|NonZeroExitCode|768|100|200|n1|train-s0|
4_1|OUT_OF_MEMORY|OutOfMemory|9|100|200|n1|a|b|
6|PENDING|DependencyNeverSatisfied|0|100|N/A||prune|
"""
LOST_BY_THE_CONTROLLER = """8_0|PENDING|launch failed requeued held|0|100|N/A||prune|
8_1|PENDING|launch_failed_requeued_held|0|100|N/A||prune|
"""


def test_rows_are_read_by_job_and_cancelled_tasks_by_their_array() -> None:
    rows = split(TEXT, FIELDS)
    assert list(rows) == ["5", "4_0", "4_1", "6"]
    assert row_of("5_3", rows) == rows["5"]
    assert row_of("7", rows) is None
    seen = {job: as_seen(rows[job], JobRecord(job=job, steps=()), Path("runs")) for job in rows}
    assert not any(job.alive for job in seen.values())
    assert str(seen["4_0"]) == "job 4_0 FAILED on n1 (exit 3)"
    assert str(seen["4_1"]) == "job 4_1 OUT_OF_MEMORY on n1 (OutOfMemory, signal 9)"
    assert seen["4_0"].log == Path("runs/.sweeps/slurm/4_0/4_0_0_log.out")


def test_a_job_that_slurm_holds_after_a_failed_launch_is_held() -> None:
    for job, row in split(LOST_BY_THE_CONTROLLER, FIELDS).items():
        seen = as_seen(row, JobRecord(job=job, steps=()), Path("runs"))
        assert seen.held
        assert str(seen) == f"job {job} PENDING (launch failed requeued held, scontrol release {job})"


def test_a_job_counts_only_under_its_name() -> None:
    rows = split(TEXT, FIELDS)
    assert ours(rows["4_0"], JobRecord(job="4_0", steps=(), names=("train-s0_1", "train-s0")))
    assert not ours(rows["4_0"], JobRecord(job="4_0", steps=(), names=("train-s1",)))
    assert not ours(rows["4_0"], JobRecord(job="4_0", steps=()))
    assert ours({"Name": "sweep-s84b07f9a"}, JobRecord(job="4_0", steps=()))


def test_how_a_job_ended() -> None:
    assert [exit_text(code) for code in ("768", "9", "0", "3:0", "0:15", "", "?")] == [
        *("exit 3", "signal 9", "", "exit 3", "signal 15", "", ""),
    ]


GRID = [(p, s, "finetune") for s in (0, 1) for p in (0.3, 0.5, 0.7)]


@pytest.mark.parametrize(
    ("cells", "sizes"), [(1, [1, 1, 2, 2, 2, 2, 2, 2]), (2, [1, 1, 4, 2, 4, 2]), (3, [7, 7]), (6, [14])]
)
def test_cells_are_put_together_parents_first(cells: int, sizes: list[int]) -> None:
    sweep = sweep_of(GRID)
    found = bundles(sweep, {step.id for step in sweep.steps}, cells)
    assert sorted(map(len, found)) == sorted(sizes)
    order = [step.id for bundle in found for step in bundle]
    assert sorted(order) == sorted(step.id for step in sweep.steps)
    for step in sweep.steps:
        assert step.parent not in order or order.index(step.parent) < order.index(step.id)


def test_jobs_say_stage_network_ratios_and_seed() -> None:
    sweep = sweep_of(GRID)
    assert job_name(ends(sweep.chains[0])) == "finetune-digits-resnet20-p0.3-s0"
    assert job_name(sweep.wanted) == "finetune-digits-resnet20-p0.3_0.5_0.7-s0_1"


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (
            {"timeout_min": "2-00:00:00"},
            "timeout_min must be a whole number of minutes, got '2-00:00:00'; did you mean 2880",
        ),
        ({"setup": "module load x"}, "setup must be a list"),
        ({"cpus_per_task": "four"}, "cpus_per_task must be a whole number"),
        ({"partition": "a b"}, "partition must be a word"),
        ({"mail_type": "END"}, "mail_type=END needs an address"),
        ({"additional": {"array": "0-3"}}, "additional.array must not be given: the launcher"),
        ({"additional": {"time": 5}}, "additional.time must not be given: use hydra.launcher.timeout_min"),
        ({"additional": {"comment": {"a": 1}}}, "additional.comment must be a word"),
    ],
)
def test_a_wrong_setting_is_named(node: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as caught:
        SlurmSettings.read(node, "hydra.launcher")
    assert str(caught.value).startswith(f"hydra.launcher.{text}")


def test_settings_become_options_of_sbatch() -> None:
    node = {"partition": ["main", "high"], "exclude": ["n1", "n2"], "qos": "long", "mail": "a@b.c", "account": 12}
    settings = SlurmSettings.read(node | {"additional": {"requeue": False, "hold": True}}, "hydra.launcher")
    assert (settings.partition, settings.account) == ("main,high", "12")
    expected = {"exclude": "n1,n2", "qos": "long", "mail-user": "a@b.c", "mail-type": "END,FAIL", "hold": True}
    assert settings.sbatch_options() == expected | {"no-requeue": True}
    assert SlurmSettings().sbatch_options() == {"requeue": True}


def test_a_gpu_need_not_be_here() -> None:
    assert resolve_precision("auto", Env(device="cuda"), SlurmSettings()) == "bf16"
    assert resolve_precision("fp32", Env(device="cuda:1"), SlurmSettings()) == "fp32"
    with pytest.raises(UserError, match=r"^hydra.launcher.gpus_per_task must be >= 1 for env.device=cuda, got 0$"):
        resolve_precision("auto", Env(device="cuda"), SlurmSettings(gpus_per_task=0))
