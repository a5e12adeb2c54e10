"""Steps, chains and sweeps made by hand, and their directories; configs composed as main.py has them."""

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from pruning.env import Env
from pruning.files import write_json
from pruning.pipeline.sweep import Sweep
from pruning.runs import Run, Step, claims
from tests.commands import ROOT

STAGES = ("train", "prune", "finetune")
Cell = tuple[float, int, str]
"""percent, seed, stage"""


def composed(*overrides: str) -> dict[str, Any]:
    """Return the config of main.py as plain values."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        plain = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def step(stage: str, parent: Step | None = None, seed: int = 0, **recipe: Any) -> Step:
    """Return a step as a request makes them, on digits; `recipe` has the keys of the config."""
    return Step(
        stage=stage,
        recipe=recipe,
        dataset={"name": "digits"},
        arch={"name": "resnet20"},
        seed=seed,
        precision="fp32",
        parent=parent.id if parent else None,
        num_classes=10,
        sparsity=recipe.get("percent", parent.sparsity if parent else None),
        level=(parent.level if parent else 0) + (stage == "prune"),
        places={parent.id: parent.name} if parent else {},
    )


@cache
def chain(percent: float, seed: int, stage: str) -> tuple[Step, ...]:
    """Return a dense network of 8 epochs and what of its pruning and 5 epochs of finetuning leads to `stage`."""
    dense = step("train", seed=seed, epochs=8)
    pruned = step("prune", dense, seed, percent=percent)
    return (dense, pruned, step("finetune", pruned, seed, epochs=5))[: STAGES.index(stage) + 1]


def sweep_of(cells: Iterable[Cell], runs: Path = Path("runs"), name: str | None = None) -> Sweep:
    env = Env(runs=runs, data=runs.parent / "data", device="cpu")
    return Sweep(tuple(chain(*cell) for cell in cells), env, name)


def place(runs: Path, one: Step, rows: int = 0, **files: Any) -> Run:
    """Make the directory of a step with `rows` epochs and `files`, e.g. `result={}` for result.json."""
    run = Run.for_step(one, runs)
    run.path.mkdir(parents=True, exist_ok=True)
    if rows:
        (run.path / "metrics.jsonl").write_text("".join(f'{{"epoch": {i + 1}}}\n' for i in range(rows)))
    for name, content in files.items():
        write_json(run.path / f"{name}.json", content)
    return run


def dead(run: Run) -> None:
    """Leave the claim of a process that was killed."""
    write_json(run.path / "claim-1", claims.identity() | {"pid": os.getpid(), "started": "0"})
