"""Steps made by hand, and the directories that they leave."""

import os
from pathlib import Path
from typing import Any, get_type_hints

from pruning.files import write_json
from pruning.runs import Result, Run, Step, claims


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


DENSE = step("train", epochs=2, lr=0.1)
PRUNED = step("prune", DENSE, percent=0.8)
TUNED = step("finetune", PRUNED, epochs=1, lr=0.01)
STEPS = (DENSE, PRUNED, TUNED)


def place(runs: Path, one: Step, rows: int = 0, **files: Any) -> Run:
    """Make the directory of a step with `rows` epochs and `files`: `failed={...}` for failed.json.

    `result={}` is a result with its model, `result={"seconds": 1.0}` one with that figure.
    """
    run = Run.for_step(one, runs)
    run.path.mkdir(parents=True, exist_ok=True)
    if rows:
        (run.path / "metrics.jsonl").write_text("".join(f'{{"epoch": {i + 1}}}\n' for i in range(rows)))
    if "result" in files:
        if not run.model.exists():
            run.model.write_bytes(b"a model")
        files["result"] = figures(one) | files["result"]
    for name, content in files.items():
        write_json(run.path / f"{name}.json", content)
    return run


def figures(one: Step) -> dict[str, Any]:
    """Return a whole result of a step, as figures that mean nothing."""
    kinds = get_type_hints(Result)
    found: dict[str, Any] = {key: 0.0 if kinds[key] is float else 0 for key in Result.__required_keys__}
    found |= {"id": one.id, "stage": one.stage, "parent": one.parent, "dataset": one.dataset["name"]}
    found |= {"arch": one.arch["name"], "seed": one.seed, "percent": one.sparsity or 0.0, "epochs": one.epochs}
    return found | {"before": None, "train_loss": None}


def dead(run: Run) -> None:
    """Leave the claim of a process that was killed."""
    write_json(run.path / "claim-1", claims.identity() | {"pid": os.getpid(), "started": "0"})


def taken(folder: Path) -> claims.Claim:
    claim = claims.take(folder)
    assert claim
    return claim


def old(one: Step) -> dict[str, Any]:
    """Return a step as 0.1 wrote it into its records."""
    aside: dict[str, Any] = {"root": one.root, "num_classes": one.num_classes}
    aside |= {"parent": one.places[one.parent], "percent": one.sparsity} if one.parent else {}
    return {key: value for key, value in one.spec.items() if key != "version"} | {"aside": aside}
