"""Made-up runs for the page, in memory but for what it looks at on the disk; quick, so that there can be thousands."""

import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from pruning.runs import Result, Run
from pruning.summary.answer import answer, command_of
from pruning.summary.cells import Entry
from pruning.summary.choose import grouped
from pruning.summary.numbers import numbers
from pruning.summary.page import PAGE, Content, page
from tests.runs.steps import figures, step

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)


def entry(runs: Path, name: str, parent: Entry | None = None, **result: Any) -> Entry:
    """Return a result below `parent`, in a directory with a model of a few bytes; `settings` are added to its own."""
    stage = result["stage"]
    settings = {"stage": stage, "level": result["level"]} | dict(parent.settings if parent else {})
    settings |= {"dataset": result["dataset"], "arch": result["arch"], "seed": result["seed"]}
    settings |= {"stage": stage, "level": result["level"]} | result.pop("settings", {})
    result |= {"parent": parent.result["id"] if parent else None, "settings": {}}
    run = Run(runs / f"{name}-{result['id']}")
    run.path.mkdir(parents=True)
    run.model.write_bytes(b"a model")
    dense = (parent.dense or parent) if parent else None
    made = cast("Result", figures(step("train")) | result)
    return Entry(run, made, settings, result["level"], dense, made["epochs"])


def sweep(
    runs: Path,
    methods: Mapping[str, Mapping[str, Any]],
    *,
    networks: Iterable[tuple[str, str]] = (("digits", "resnet20"),),
    sparsities: Iterable[float] = SPARSITIES,
    seeds: int = 3,
) -> dict[str, Entry]:
    """Return the results by id of a chain for each network, method (named anyhow, with its settings) and seed."""
    chance = random.Random(0)
    found: dict[str, Entry] = {}

    def add(name: str, parent: Entry | None = None, **result: Any) -> Entry:
        made = entry(runs, name, parent, id=f"r{len(found):012x}", **result)
        found[made.result["id"]] = made
        return made

    for dataset, arch in networks:
        for seed in range(seeds):
            same = {
                "dataset": dataset,
                "arch": arch,
                "seed": seed,
                "prunable": 270_000,
                "params": 272_000,
                "macs": 40_000_000,
            }
            top1, recipe = 92 + chance.gauss(0, 0.25), {"train.epochs": 160, "train.lr": 0.1}
            full = {
                "prunable_nonzero": 270_000,
                "params_nonzero": 272_000,
                "macs_nonzero": 40_000_000,
                "seconds": 3600.0,
                "test_top1": top1,
            }
            dense = add(
                f"train-{dataset}-{arch}-s{seed}", None, **same, **full, stage="train", level=0, settings=recipe
            )
            for place, own in enumerate(methods.values()):
                for percent in sparsities:
                    kept, loss = 1 - percent, (0.2 + place) * (0.05 / (1 - percent)) ** 1.3
                    after = max(10.0, top1 - 4 * loss - 30 * percent**4 + chance.gauss(0, 1.0))
                    shared = same | {"percent": percent, "sparsity": percent, "level": 1}
                    shared |= {"prunable_nonzero": round(270_000 * kept), "params_nonzero": round(272_000 * kept)}
                    shared |= {"macs_nonzero": round(4e7 * kept**0.8)}
                    shared |= {"before": {"test_top1": after, "test_top5": 99.0, "test_loss": 0.5}}
                    tail, cut = f"{dataset}-{arch}-p{percent:g}-s{seed}", {"prune.percent": percent} | dict(own)
                    pruned = add(f"prune-{tail}", dense, **shared, stage="prune", test_top1=after, settings=cut)
                    final = max(10.0, top1 - loss + chance.gauss(0, 0.2))
                    tuned = {"finetune.epochs": 40, "finetune.lr": 0.01}
                    more = {"test_top1": final, "seconds": chance.uniform(800, 1000), "settings": tuned}
                    add(f"finetune-{tail}", pruned, **shared, **more, stage="finetune")
    return found


def write(runs: Path, found: Mapping[str, Entry], problems: Iterable[str] = ()) -> Path:
    """Write the page of what is finetuned, into `report` in `runs`, and return it."""
    cells = grouped([each for each in found.values() if each.result["stage"] == "finetune"], None)
    said = answer(cells, 0.5, lambda cell, seeds: command_of({"prune.percent": cell.percent}, seeds))
    content = Content("Pruning report: made up", said or "nothing is done", [*problems], cells, numbers(cells), found)
    path = runs / "report" / PAGE
    path.parent.mkdir()
    path.write_text(page(content, runs, path.parent))
    return path
