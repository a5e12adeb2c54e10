"""Many runs as one table.

A new column is one function of a row, entered in COLUMNS under its title.
"""

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pruning.errors import printable
from pruning.files import DamagedError
from pruning.runs.result import Result
from pruning.runs.run import Run, every

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


def outcome(results: Sequence[Result], runs: Sequence[Run]) -> str:
    """Return what a person sees of a chain that is done: the table of its steps, and where its picture is."""
    rows = table(zip(results, (run.path for run in runs), strict=True))
    return f"\n{text(rows, tuple(COLUMNS))}\n\npicture: {runs[-1].picture}"


def results(runs: Path | str = "runs") -> list[dict[str, Any]]:
    """Return a flat row for each run in `runs` that is done, by name: `pandas.DataFrame(results())`.

    A row has the keys of result.json, with those of `before` as `before_test_top1`, ..., those of `settings` as they
    are (`prune.criterion`), and `run`, the directory. A result that is damaged is left out, with a warning.
    """
    rows = []
    for run in every(Path(runs)):
        try:
            result = run.result()
        except DamagedError as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        if result:
            row = dict(result.get("settings", {}))
            row |= {key: value for key, value in result.items() if key not in ("before", "settings")}
            row |= {f"before_{key}": value for key, value in (result["before"] or {}).items()}
            rows.append(row | {"run": str(run.path)})
    return rows


LEAST = ("seconds", "multiply-adds left", "parameters left", "top-1 pruned")  # what a narrow terminal does without
GAP, READABLE, SHORTEST = 2, 32, 16  # characters: between columns; of a name; of what is left of one


def text(rows: Sequence[tuple[str, ...]], columns: Sequence[str], room: int | None = None) -> str:
    """Return the table as aligned lines; numbers to the right.

    On a terminal, or in `room` characters, it has no wider lines: directories go without what is above them, long words
    lose their middle, and columns go. Elsewhere it is whole.
    """
    rows = [tuple(map(printable, row)) for row in rows]
    if room is None and sys.stdout.isatty():
        room = shutil.get_terminal_size().columns
    if room is not None:
        rows, columns = fitted(rows, columns, room)
    widths = widths_of(rows, columns)
    right = [all(row[i][:1] in "0123456789" for row in rows) for i in range(len(columns))]
    lines = [
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in [columns, *rows]
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def widths_of(rows: Sequence[tuple[str, ...]], columns: Sequence[str]) -> list[int]:
    """Return the characters of each column."""
    return [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]


def fitted(
    rows: Sequence[tuple[str, ...]], columns: Sequence[str], room: int
) -> tuple[list[tuple[str, ...]], Sequence[str]]:
    """Return the table with lines of `room` characters at most, if what it must say can be said in that."""

    def over() -> int:
        return sum(widths := widths_of(rows, columns)) + GAP * (len(widths) - 1) - room

    if over() > 0:
        rows = [tuple(cell.rpartition(os.sep)[2] if cell[:1] in "/." else cell for cell in row) for row in rows]
    rows = with_shorter_words(rows, columns, over(), READABLE)
    for name in LEAST:
        if over() > 0 and name in columns:
            at = [*columns].index(name)
            rows = [row[:at] + row[at + 1 :] for row in rows]
            columns = [*columns[:at], *columns[at + 1 :]]
    return with_shorter_words(rows, columns, over(), SHORTEST), columns


def with_shorter_words(
    rows: Sequence[tuple[str, ...]], columns: Sequence[str], excess: int, least: int
) -> list[tuple[str, ...]]:
    """Return the rows with so many characters less, taken from the widest columns but never below `least`."""
    rows = [*rows]
    while excess > 0:
        widths = widths_of(rows, columns)
        at = widths.index(max(widths))
        most = max(least, len(columns[at]), widths[at] - excess)
        if most >= widths[at]:
            break
        excess -= widths[at] - most
        rows = [(*row[:at], shortened(row[at], most), *row[at + 1 :]) for row in rows]
    return rows


def shortened(word: str, most: int) -> str:
    """Return the word in `most` characters, without its middle if it is longer: ends tell names apart."""
    if len(word) <= most:
        return word
    end = 2 * (most - 1) // 3
    return f"{word[: most - 1 - end]}…{word[len(word) - end :]}"
