"""The settings of a whole chain, flat, under their names on the command line: what tells one result from another."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from pruning.files import DamagedError
from pruning.runs.run import Run, lineage
from pruning.runs.step import Step, is_file


def own_settings(step: Step) -> dict[str, Any]:
    """Return `dataset`, `arch`, `seed`, `resume` and what the step's own recipe has, like `train.lr`.

    What is neutral, or decides nothing, is left out.
    """
    found: dict[str, Any] = {"dataset": step.dataset["name"], "arch": step.arch["name"], "seed": step.seed}
    arguments = step.arch.get("arguments", {})
    own = {"_target_": step.arch["target"]} | arguments if "target" in step.arch else {}
    own |= {"reset_head": True} if step.arch.get("reset_head") else {}
    found |= {f"arch.{key}": value for key, value in own.items()}
    others = {key: value for key, value in step.dataset.items() if key not in ("name", "fingerprint")}
    found |= {f"dataset.{key}": value for key, value in others.items()}
    if step.parent and is_file(step.parent):
        found["resume"] = step.places[step.parent]
    if (mask := step.inputs.get("mask")) and is_file(mask):
        found[f"{step.stage}.mask_from"] = step.places[mask]
    found |= {f"{step.stage}.{key}": value for key, value in step.recipe.items()}
    return found | ({f"{step.stage}.precision": step.precision} if step.epochs else {})


def chain_settings(step: Step, runs: Path) -> dict[str, Any]:
    """Return the settings of the step and of all that it comes from, as their directories in `runs` have them.

    A setting that a chain holds twice, at two levels, is that of the last. Above an ancestor whose directory is gone or
    damaged nothing is known.
    """
    found: dict[str, Any] = {}
    if step.parent and not is_file(step.parent):
        for run in lineage(Run(runs / step.places[step.parent])):
            with suppress(DamagedError):
                found |= own_settings(ancestor) if (ancestor := run.step()) else {}
    return found | own_settings(step)
