"""What the launchers are given: read as a whole before anything runs."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pruning.env import Env
from pruning.errors import UserError
from pruning.launch.local import LocalSettings
from pruning.launch.slurm import SlurmSettings, resolve_precision
from tests.commands import ROOT, Command

SLURM = "hydra/launcher=slurm"
FOLDER = ROOT / "conf" / "hydra" / "launcher"


@pytest.mark.parametrize(("name", "settings"), [("local", LocalSettings()), ("slurm", SlurmSettings())])
def test_the_yaml_shows_every_setting_with_its_default(name: str, settings: LocalSettings | SlurmSettings) -> None:
    node = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    assert isinstance(node, dict)
    assert node.pop("_target_").endswith(f"{name.title()}Launcher")
    assert node.keys() == settings.values().keys()
    assert type(settings).read(node, "hydra.launcher") == settings


def test_a_time_limit_within_the_notice_is_refused() -> None:
    text = r"^hydra.launcher.timeout_min=3 must be more than a minute longer than signal_delay_s=120: SLURM may send"
    with pytest.raises(UserError, match=text):
        SlurmSettings.read({"timeout_min": 3}, "hydra.launcher")
    assert SlurmSettings(timeout_min=3, signal_delay_s=119)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (("hydra.launcher.workers=0", "-m"), "hydra.launcher.workers must be >= 1, got 0"),
        (
            ("+hydra.launcher.worker=2", "-m"),
            "a setting of hydra.launcher must be one of per_device, workers, got 'worker'; did you mean workers?",
        ),
        ((SLURM, "hydra.launcher.setup=x"), "hydra.launcher.setup must be a list of words like [a,b], got 'x'"),
        ((SLURM,), "hydra/launcher=slurm needs SLURM's commands (sbatch, squeue) here; run it on a login node"),
    ],
    ids=["range", "unknown", "type", "no SLURM"],
)
def test_a_command_that_cannot_start_ends_with_one_line(
    command: Command, tmp_path: Path, overrides: tuple[str, ...], text: str
) -> None:
    done = command(*overrides, PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (1, f"error: {text}\n")
    assert not command.runs.exists()


@pytest.mark.parametrize(
    ("wanted", "device", "settings", "expected"),
    [
        ("auto", "auto", {}, "bf16"),  # whatever the login node has
        ("fp32", "auto", {}, "fp32"),
        ("auto", "cpu", {}, Env(device="cpu").precision("auto")),
        ("auto", "auto", {"gpus_per_task": 0}, Env().precision("auto")),
    ],
)
def test_the_precision_is_that_of_the_machines_that_the_tasks_run_on(
    wanted: str, device: str, settings: dict[str, Any], expected: str
) -> None:
    assert resolve_precision(wanted, Env(device=device), SlurmSettings(**settings)) == expected
