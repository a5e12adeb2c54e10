"""One run as a picture: kept weights by layer, accuracy over the epochs."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pruning.checkpoints import Checkpoint
from pruning.files import DamagedError, write_whole
from pruning.report.table import layers
from pruning.runs import Run, Step, lineage


def picture(run: Run, checkpoint: Checkpoint, check: Callable[[], None] = lambda: None) -> Path:
    """Draw kept weights by layer, and accuracy over the epochs of the run and its ancestors; return the file.

    `check` is as in `write_whole`.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (left_axis, right_axis) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    rows = layers(checkpoint)
    draw_layers(left_axis, rows)
    draw_epochs(right_axis, run)
    figure.suptitle(run.path.name, fontsize=9)
    path, packed = run.path / "picture.png", io.BytesIO()
    try:
        figure.savefig(packed, format="png", dpi=110, metadata={"Software": None})
    finally:
        plt.close(figure)
    write_whole(path, packed.getbuffer(), check)
    return path


def draw_layers(axis: Any, rows: list[dict[str, Any]]) -> None:
    """Draw a bar per prunable layer: its weights, and how many are kept."""
    axis.set_title("weights of each prunable layer", fontsize=10)
    axis.set_xlabel("layer, from input to output")
    axis.xaxis.get_major_locator().set_params(integer=True)
    if not rows:
        axis.text(0.5, 0.5, "nothing pruned yet", ha="center", va="center", transform=axis.transAxes)
        return
    places = range(len(rows))
    axis.bar(places, [row["weights"] for row in rows], color="#d9d9d9", label="pruned")
    axis.bar(places, [row["kept"] for row in rows], color="#2a6f97", label="kept")
    axis.legend(loc="upper left", fontsize=8, frameon=False)


def draw_epochs(axis: Any, run: Run) -> None:
    """Draw training and test accuracy over the epochs of the whole chain, and a cross right after each pruning."""
    axis.set_title("accuracy (top-1, percent)", fontsize=10)
    axis.set_xlabel("epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    start = 0
    for ancestor in lineage(run):
        try:
            step, result = ancestor.step(), ancestor.result()
        except DamagedError:  # of an ancestor: its curve is missing, and status says why
            continue
        rows, stage = ancestor.rows(), label(step) if step else ancestor.path.name
        if rows:
            epochs = [start + row["epoch"] for row in rows]
            (line,) = axis.plot(
                epochs, [row.get("test_top1", math.nan) for row in rows], marker=".", label=f"{stage}: test"
            )
            axis.plot(
                epochs,
                [row.get("train_top1", math.nan) for row in rows],
                ":",
                color=line.get_color(),
                label=f"{stage}: train",
            )
            start = epochs[-1]
        elif result:
            axis.plot([start], [result["test_top1"]], "x", color="#c1121f", label=f"right after {stage}")
    if axis.has_data():
        axis.legend(fontsize=8, frameon=False)


def label(step: Step) -> str:
    """Return the stage, and the sparsity where there is one: levels differ in that only."""
    return step.stage if step.sparsity is None else f"{step.stage} {step.sparsity:.4g}"
