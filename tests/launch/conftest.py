"""A SLURM of one node, and what a sweep gives that nothing disturbs."""

import fcntl
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.commands import Command, Server
from tests.launch.on_slurm import CLUSTER, GRID, Submitter, jobs, made
from tests.launch.processes import start


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """SLURM for one file at a time: there are files that restart it with other settings."""
    with (Path(tempfile.gettempdir()) / "slurm-one.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        was_up = subprocess.run(["sh", "-c", "scontrol ping"], capture_output=True).returncode == 0
        up = subprocess.run([CLUSTER / "slurm-up.sh"], capture_output=True, text=True)
        if up.returncode:
            pytest.fail(f"no SLURM: {up.stderr.strip()}")
        yield
        if not was_up:
            subprocess.run([CLUSTER / "slurm-down.sh"], check=True)


@pytest.fixture(scope="session")
def recipe(small: tuple[str, ...]) -> tuple[str, ...]:
    """Overrides for steps of seconds: 6 and 3 epochs of 6 batches."""
    return (*small, "train.epochs=6", "finetune.epochs=3", "train.precision=fp32", "env.wandb.mode=disabled")


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, server: Server, recipe: tuple[str, ...]) -> Path:
    """The runs of the whole sweep, made by the local launcher."""
    command = Command(tmp_path_factory.mktemp("reference"), server)
    done = start(command, *recipe, "hydra.launcher.workers=2", *GRID[:-1]).wait()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(made(command.runs)) == 10
    return command.runs


@pytest.fixture(scope="module")
def submitters(
    cluster: None, tmp_path_factory: pytest.TempPathFactory, server: Server, recipe: tuple[str, ...]
) -> Iterator[Callable[[str], Submitter]]:
    """`submitters(name)` gives a new one; all its jobs are cancelled in the end."""
    given: list[Submitter] = []

    def new(name: str) -> Submitter:
        given.append(Submitter(tmp_path_factory.mktemp(name), server, recipe=recipe))
        return given[-1]

    yield new
    subprocess.run(["scancel", "--quiet", *(job for each in given for job in jobs(each.runs))])
