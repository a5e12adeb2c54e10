"""One run as a picture: kept weights by layer, accuracy over the epochs."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pruning.checkpoints import Checkpoint
from pruning.files import DamagedError, write_whole
from pruning.report.layers import layers
from pruning.runs import Run, Step, lineage

NAMED = 60  # layers; more names run into each other
FIGURED = 40  # layers that get their figure written in
KEPT, PRUNED = "#0072B2", "#D9D9D9"


def picture(run: Run, checkpoint: Checkpoint, check: Callable[[], None] = lambda: None) -> Path:
    """Draw kept weights by layer, and accuracy over the epochs of the run and its ancestors; return the file.

    `check` is as in `write_whole`.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    rows = layers(checkpoint) or unpruned(checkpoint)
    wide = max(1.0, min(len(rows), NAMED) / 28)  # a bar and its name need a fifth of an inch
    size = (5.6 * (wide + 1), 4.4)
    figure, axes = plt.subplots(1, 2, figsize=size, layout="constrained", width_ratios=[wide, 1.0])
    draw_layers(axes[0], rows, pruned=bool(checkpoint.mask))
    draw_epochs(axes[1], run)
    figure.suptitle(run.path.name, fontsize=9)
    path, packed = run.path / "picture.png", io.BytesIO()
    try:
        figure.savefig(packed, format="png", dpi=110, metadata={"Software": None})
    finally:
        plt.close(figure)
    write_whole(path, packed.getbuffer(), check)
    return path


def unpruned(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Return rows as `layers` does for a network without a mask: its convolutions, whole."""
    sizes = {name: weight.numel() for name, weight in checkpoint.weights.items() if weight.ndim == 4}
    return [{"layer": name, "weights": size, "kept": size, "sparsity": 0.0} for name, size in sizes.items()]


def draw_layers(axis: Any, rows: list[dict[str, Any]], *, pruned: bool) -> None:
    """Draw a bar per prunable layer: its weights, and how many are kept, with the percentage."""
    kept, total = sum(row["kept"] for row in rows), sum(row["weights"] for row in rows)
    share = f"{kept:,} of {total:,} kept" if pruned else f"{total:,}, nothing pruned"
    axis.set_title(f"weights of each prunable layer ({share})", fontsize=10)
    if not rows:
        axis.text(0.5, 0.5, "no prunable layer", ha="center", va="center", transform=axis.transAxes)
        return
    places, step = range(len(rows)), math.ceil(len(rows) / NAMED)
    axis.bar(places, [row["weights"] for row in rows], color=PRUNED, edgecolor="#8C8C8C", linewidth=0.4, label="pruned")
    bars = axis.bar(places, [row["kept"] for row in rows], color=KEPT, label="kept")
    if pruned and len(rows) <= FIGURED:
        shares = [f"{100 * row['kept'] / row['weights']:.0f} %" for row in rows]
        axis.bar_label(bars, shares, fontsize=6, rotation=90, padding=2)
    names = [row["layer"].removesuffix(".weight") for row in rows]
    axis.set_xticks([*places][::step], names[::step], rotation=90, fontsize=7)
    axis.set_xlim(-0.7, len(rows) - 0.3)
    axis.margins(y=0.12)
    axis.yaxis.set_major_formatter("{x:,.0f}")
    if pruned:
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
