"""A chain of three steps, as the planner makes them, and the directories that they leave."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pruning.files import write_json
from pruning.runs import Run, Step

DENSE = Step(
    stage="train",
    recipe={"epochs": 2, "lr": 0.1},
    dataset={"name": "digits"},
    arch={"name": "resnet20"},
    seed=0,
    precision="fp32",
    parent=None,
    num_classes=10,
)
PRUNED = replace(
    DENSE,
    stage="prune",
    recipe={"percent": 0.8},
    parent=DENSE.id,
    sparsity=0.8,
    level=1,
    places={DENSE.id: DENSE.name},
)
TUNED = replace(
    PRUNED, stage="finetune", recipe={"epochs": 1, "lr": 0.01}, parent=PRUNED.id, places={PRUNED.id: PRUNED.name}
)
STEPS = (DENSE, PRUNED, TUNED)


def old(step: Step) -> dict[str, Any]:
    """Return a step as 0.1 wrote it into its records."""
    aside: dict[str, Any] = {"root": step.root, "num_classes": step.num_classes}
    aside |= {"parent": step.places[step.parent], "percent": step.sparsity} if step.parent else {}
    return {key: value for key, value in step.spec.items() if key != "version"} | {"aside": aside}


def leave(runs: Path, step: Step, epochs: int = 0, **files: Any) -> Run:
    """Make the directory of a step with `epochs` rows, and `files` such as `result={}` for result.json."""
    run = Run.for_step(step, runs)
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_config(step, {})
    if epochs:
        rows = [json.dumps({"epoch": epoch + 1}) + "\n" for epoch in range(epochs)]
        (run.path / "metrics.jsonl").write_text("".join(rows))
    for name, content in files.items():
        write_json(run.path / f"{name}.json", content)
    return run
