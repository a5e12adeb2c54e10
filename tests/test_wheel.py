"""What is installed from the wheel, outside the checkout, does what the checkout does."""

import os
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from pruning.runs import Run
from tests.commands import ROOT
from tests.helpers import by_stage, result, slow

Installed = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ("train.epochs=1", "finetune.epochs=1", "env.threads=1", "env.device=cpu")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """`installed("pruning-sweeps", "stage=train")` runs a program of an environment that knows no checkout."""
    place = tmp_path_factory.mktemp("installed")

    def run(*command: str, cwd: Path = place) -> subprocess.CompletedProcess[str]:
        environ = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    run("uv", "build", "--quiet", "--wheel", "--out-dir", str(place), str(ROOT))
    run("uv", "venv", "--quiet", "--python", sys.executable, "new")
    (wheel,) = place.glob("*.whl")
    run("uv", "pip", "install", "--quiet", "--no-deps", "--python", "new", wheel.name)
    (packages,) = place.glob("new/lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # the links there are not followed
    return lambda program, *args, **options: run(str(place / "new" / "bin" / program), *args, **options)


@slow
def test_the_command_makes_the_main_job_and_its_module_does_too(installed: Installed, tmp_path: Path) -> None:
    where = installed("python", "-c", "import pruning, hydra_plugins.pruning_hydra as h; print(pruning.__file__, h)")
    assert str(ROOT) not in where.stdout
    done = installed("pruning-sweeps", *QUICK, cwd=tmp_path)
    runs = by_stage(tmp_path / "runs")
    assert {stage for stage, run in runs.items() if run.done} == {"train", "prune", "finetune"}
    assert "picture: " in done.stdout
    again = installed("python", "-m", "pruning", *QUICK, cwd=tmp_path)
    assert again.stdout.count("reused") == done.stdout.count("starts") == 3
    sweep = ("-m", "+sweep=smoke", "train.epochs=1", "finetune.epochs=1", "hydra.launcher.workers=2")
    assert "pruning-sweeps stage=" not in installed("pruning-sweeps", *sweep, cwd=tmp_path).stderr
    assert "python main.py" not in installed("pruning-sweeps", "stage=report", cwd=tmp_path).stdout


@slow
def test_a_directory_of_ones_own_adds_a_network_and_a_recipe(installed: Installed, tmp_path: Path) -> None:
    files = {
        "mine.py": """
            import torch
            def net(num_classes: int, width: int) -> torch.nn.Module:
                conv = torch.nn.Conv2d(3, width, 3)
                head = torch.nn.Flatten(), torch.nn.Linear(width, num_classes)
                return torch.nn.Sequential(conv, torch.nn.AdaptiveAvgPool2d(1), *head)
        """,
        "conf/arch/mine.yaml": "_target_: mine.net\nfile: mine.py\nname: mine\nwidth: 5\n",
        "conf/recipe/short.yaml": "# @package _global_\ndefaults: [quick]\ntrain: {epochs: 2}\nfinetune: {epochs: 1}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    installed("pruning-sweeps", "arch=mine", "recipe=short", "--config-dir", "conf", "arch.width=6", cwd=tmp_path)
    runs = by_stage(tmp_path / "runs")
    assert [result(runs[stage])["epochs"] for stage in ("train", "finetune")] == [2, 1]
    assert Run(runs["train"].path).path.name.startswith("train-digits-mine-")
