"""Where Windows and macOS have less than Linux, seen from here: the names that they lack are gone."""

import subprocess
import sys
import textwrap
from pathlib import Path

from tests.commands import ROOT
from tests.helpers import by_stage, slow

WITHOUT = """
    import os, signal, subprocess, sys
    import torch, torchvision, hydra, wandb, matplotlib.pyplot, sklearn  # theirs are their own affair
    for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty"):
        sys.modules[name] = None
    for module, names in ((signal, "SIGHUP SIGUSR1 SIGUSR2 SIGKILL pthread_sigmask"),
                          (os, "O_NONBLOCK sched_getaffinity sched_setaffinity getuid fork mkfifo posix_fadvise")):
        for name in names.split():
            delattr(module, name)
"""
IMPORTS = """
    import importlib, pkgutil, pruning
    for found in pkgutil.walk_packages(pruning.__path__, "pruning."):
        if not found.name.startswith(("pruning.launch.worker", "pruning.__main__")):
            importlib.import_module(found.name)
    import pruning.launch.worker
"""
MAIN = """
    import runpy
    runpy.run_path("main.py", run_name="__main__")
"""


def python(*code: str, arguments: tuple[str, ...] = ()) -> None:
    text = "\n".join(map(textwrap.dedent, code))
    done = subprocess.run([sys.executable, "-c", text, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_everything_can_be_imported() -> None:
    python(WITHOUT, IMPORTS)


@slow
def test_the_main_job_and_a_sweep_run(tmp_path: Path) -> None:
    places = (f"env.runs={tmp_path / 'runs'}", "env.device=cpu", "env.threads=1", "train.epochs=1", "finetune.epochs=1")
    python(WITHOUT, MAIN, arguments=places)
    assert {stage for stage, run in by_stage(tmp_path / "runs").items() if run.done} == {"train", "prune", "finetune"}
    python(WITHOUT, MAIN, arguments=("-m", *places, "seed=1,2", "hydra.launcher.workers=1"))


def test_the_checkout_has_one_link_only() -> None:
    """Git for Windows makes a text file of it, unless core.symlinks is set; the README says so."""
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    links = [line.split("\t")[1] for line in listed.splitlines() if line.startswith("120000")]
    assert links == ["conf/sweep"]
