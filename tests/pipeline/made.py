"""Chains and sweeps made by hand, and configs composed as main.py has them."""

import copy
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from pruning.env import Env
from pruning.pipeline.sweep import Sweep
from pruning.runs import Step
from tests.commands import ROOT
from tests.runs.steps import dead, place, step

__all__ = ["STAGES", "Cell", "chain", "composed", "dead", "place", "step", "sweep_of"]

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
