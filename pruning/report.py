"""Many runs as one table, one run as a picture; read from what lies on the disk."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pruning.checkpoints import Checkpoint
from pruning.files import cannot_write
from pruning.runs import Run, lineage

COLUMNS = ("step", "sparsity", "top-1 pruned", "top-1", "parameters left", "multiply-adds left", "seconds", "run")


def table(results: Iterable[dict[str, Any]], places: dict[str, str]) -> list[tuple[str, ...]]:
    """Return a row of COLUMNS for each result; `places` maps the id of a run to where it lies."""
    rows: list[tuple[str, ...]] = []
    for r in results:
        before = f"{r['before']['test_top1']:.2f}" if r["before"] else ""
        rows.append(
            (
                r["stage"],
                f"{r['sparsity']:.4f}",
                before,
                f"{r['test_top1']:.2f}",
                left(r["params_nonzero"], r["params"]),
                left(r["macs_nonzero"], r["macs"]),
                f"{r['seconds']:.1f}",
                places[r["id"]],
            )
        )
    return rows


def left(kept: int, of: int) -> str:
    return f"{kept:,} ({kept / of:.1%})"


def text(rows: Sequence[tuple[str, ...]], columns: tuple[str, ...] = COLUMNS) -> str:
    """Return the table as aligned lines; numbers to the right."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    right = [all(row[i][:1] in "0123456789" for row in rows) for i in range(len(columns))]
    lines = [
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in [columns, *rows]
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def layers(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Return `layer weights kept sparsity` of each masked layer, in the network's order."""
    order = [name for name in checkpoint.weights if name in checkpoint.mask]
    kept = {name: int(checkpoint.mask[name].sum()) for name in order}
    sizes = {name: checkpoint.mask[name].numel() for name in order}
    return [
        {"layer": name, "weights": sizes[name], "kept": kept[name], "sparsity": 1 - kept[name] / sizes[name]}
        for name in order
    ]


def picture(run: Run, checkpoint: Checkpoint) -> Path | None:
    """Draw kept weights by layer, and accuracy over the epochs of the run and its ancestors; return the file."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (left_axis, right_axis) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    rows = layers(checkpoint)
    draw_layers(left_axis, rows)
    draw_epochs(right_axis, run)
    figure.suptitle(run.path.name, fontsize=9)
    path = run.path / "picture.png"
    try:
        figure.savefig(path, dpi=110, metadata={"Software": None})
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        plt.close(figure)
    return path


def draw_layers(axis: Any, rows: list[dict[str, Any]]) -> None:
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
    axis.set_title("accuracy (top-1, percent)", fontsize=10)
    axis.set_xlabel("epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    start = 0
    for ancestor in lineage(run):
        rows, stage = ancestor.rows(), ancestor.path.name.partition("-")[0]
        if rows:
            epochs = [start + row["epoch"] for row in rows]
            (line,) = axis.plot(epochs, [row["test_top1"] for row in rows], marker=".", label=f"{stage}: test")
            axis.plot(epochs, [row["train_top1"] for row in rows], ":", color=line.get_color(), label=f"{stage}: train")
            start = epochs[-1]
        elif result := ancestor.result():
            axis.plot([start], [result["test_top1"]], "x", color="#c1121f", label=f"right after {stage}")
    if axis.has_data():
        axis.legend(fontsize=8, frameon=False)
