"""Chains and sweeps made by hand, and configs composed as main.py has them."""

import copy
import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from pruning.env import Env
from pruning.pipeline.sweep import Sweep
from pruning.runs import Step, claims
from tests.commands import ROOT
from tests.runs.steps import dead, place, step, taken

__all__ = [
    "DENSE",
    "OTHER",
    "PRUNED",
    "STAGES",
    "TUNED",
    "Cell",
    "chain",
    "composed",
    "dead",
    "done",
    "fail",
    "figures_of",
    "place",
    "running",
    "step",
    "sweep_of",
]

STAGES = ("train", "prune", "finetune")
Cell = tuple[float, int, str]
"""percent, seed, stage"""


def composed(*overrides: str) -> dict[str, Any]:
    """Return the config of main.py as plain values, each time other ones."""
    return copy.deepcopy(_composed(*overrides))


@cache
def _composed(*overrides: str) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        plain = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


@cache
def chain(percent: float, seed: int, stage: str) -> tuple[Step, ...]:
    """Return a dense network of 8 epochs and what of its pruning and 5 epochs of finetuning leads to `stage`."""
    dense = step("train", seed=seed, epochs=8)
    pruned = step("prune", dense, seed, percent=percent)
    return (dense, pruned, step("finetune", pruned, seed, epochs=5))[: STAGES.index(stage) + 1]


def sweep_of(cells: Iterable[Cell], runs: Path = Path("runs"), name: str | None = None) -> Sweep:
    env = Env(runs=runs, data=runs.parent / "data", device="cpu")
    return Sweep(tuple(chain(*cell) for cell in cells), env, name)


DENSE, PRUNED, TUNED = chain(0.3, 0, "finetune")
OTHER = chain(0.5, 0, "finetune")[1:]


def figures_of(one: Step) -> dict[str, Any]:
    counts = dict.fromkeys(("params", "params_nonzero", "prunable", "prunable_nonzero", "macs", "macs_nonzero"), 100)
    about = {"id": one.id, "stage": one.stage, "epochs": one.epochs, "seconds": 10.0, "before": None}
    sparsity = one.sparsity or 0.0
    return counts | about | {"sparsity": sparsity, "test_top1": 90 + 10 * sparsity}


def done(runs: Path, *steps: Step) -> None:
    for one in steps:
        place(runs, one, rows=one.epochs, result=figures_of(one))


def running(runs: Path, one: Step, epochs: int) -> claims.Claim:
    """Leave `one` as it is while it runs."""
    run = place(runs, one)
    rows = [{"epoch": i + 1, "train_loss": 2.5 / (i + 1), "test_top1": 50.0 + i} for i in range(epochs)]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return taken(run.path)


def fail(runs: Path, one: Step, log: Sequence[str] = ()) -> None:
    run = place(runs, one, failed={"error": "ValueError: no", "traceback": "ValueError: no", "when": 0.0})
    run.log.write_text("".join(line + "\n" for line in log))
