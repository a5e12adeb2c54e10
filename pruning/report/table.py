"""Many runs as one table.

A new column is one function of a row, entered in COLUMNS under its title.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pruning.checkpoints import Checkpoint
from pruning.errors import printable
from pruning.runs import Result

Row = Mapping[str, Any]
"""The keys of result.json, and `run`, the directory."""


def top1_pruned(row: Row) -> str:
    """Return top-1 right after pruning; empty for a dense network."""
    return f"{row['before']['test_top1']:.2f}" if row["before"] else ""


def left(kept: int, total: int) -> str:
    """Return a count and its share of the whole."""
    return f"{kept:,} ({kept / total if total else 0:.1%})"


COLUMNS: dict[str, Callable[[Row], str]] = {
    "step": lambda row: row["stage"],
    "sparsity": lambda row: f"{row['sparsity']:.4f}",
    "top-1 pruned": top1_pruned,
    "top-1": lambda row: f"{row['test_top1']:.2f}",
    "parameters left": lambda row: left(row["params_nonzero"], row["params"]),
    "multiply-adds left": lambda row: left(row["macs_nonzero"], row["macs"]),
    "seconds": lambda row: f"{row['seconds']:.1f}",
    "run": lambda row: row["run"],
}


def table(results: Iterable[tuple[Result, Path]]) -> list[tuple[str, ...]]:
    """Return a row of COLUMNS for each result and the directory of its run."""
    rows: list[Row] = [{**result, "run": str(directory)} for result, directory in results]
    return [tuple(column(row) for column in COLUMNS.values()) for row in rows]


def text(rows: Sequence[tuple[str, ...]], columns: Sequence[str]) -> str:
    """Return the table as aligned lines; numbers to the right."""
    rows = [tuple(map(printable, row)) for row in rows]
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
