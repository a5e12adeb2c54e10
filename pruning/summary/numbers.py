"""The table of cells, as CSV, Markdown and LaTeX.

A new column is one function of a cell, entered in CELL_COLUMNS under its title.
"""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pruning.summary.cells import Cell
from pruning.summary.choose import usual
from pruning.summary.statistics import deviation, holm, mean, paired, paired_p, t_interval, upper_bound

Value = str | float | int | None


def figures(cell: Cell) -> list[Mapping[str, Any]]:
    """Return result.json of each seed."""
    return [entry.result for entry in cell.entries]


def average(key: str) -> Callable[[Cell], float]:
    """Return the column of the mean of a figure of result.json over the seeds."""
    return lambda cell: mean([each[key] for each in figures(cell)])


def share(kept: str, total: str) -> Callable[[Cell], float]:
    """Return the column of total / kept, in the mean over the seeds; where nothing is left, as if one were."""
    return lambda cell: mean([each[total] / max(each[kept], 1) for each in figures(cell)])


compression = share("prunable_nonzero", "prunable")


def stored(cell: Cell) -> float:
    """Return the bytes of what is kept as float32, with one bit for each prunable weight."""
    return mean([4 * each["params_nonzero"] + math.ceil(each["prunable"] / 8) for each in figures(cell)])


def training_cost(cell: Cell) -> float:
    """Return the multiply-adds of the whole chain for one training image, the dense network's training included."""
    return mean([entry.training_macs for entry in cell.entries])


def effective_sparsity(cell: Cell) -> float | None:
    """Return the fraction of the prunable weights that is pruned, or lies on no path from the input to the output."""
    found = [(e.result.get("effective_nonzero"), e.result["prunable"]) for e in cell.entries]
    return average_of([1 - kept / total if kept is not None and total else None for kept, total in found])


def empty_layers(cell: Cell) -> float | None:
    """Return the number of layers without a weight."""
    found = [entry.result.get("empty_layers") for entry in cell.entries]
    return average_of([None if names is None else float(len(names)) for names in found])


def judgement(key: str) -> Callable[[Cell], float | None]:
    """Return the column of a figure of Quality in the mean over the seeds that have it."""
    return lambda cell: average_of([getattr(entry.quality, key, None) for entry in cell.entries])


def average_of(values: Sequence[float | None]) -> float | None:
    """Return the mean of those that are known."""
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def end(interval: tuple[float, float] | None, which: int) -> float | None:
    """Return the lower (0) or upper (1) end, if there is an interval."""
    return interval[which] if interval else None


def before(key: str) -> Callable[[Cell], float | None]:
    """Return the column of a figure right after pruning."""

    def column(cell: Cell) -> float | None:
        return average_of([entry.result["before"][key] for entry in cell.entries if entry.result["before"]])

    return column


def loss_bound(cell: Cell) -> float | None:
    """Return the one-sided 95 % bound from above of the loss of top-1 against dense, in points."""
    return upper_bound([-change for change in cell.changes])


def all_zeros(cell: Cell) -> float:
    """Return the fraction of all parameters that is zero."""
    return mean([1 - entry.result["params_nonzero"] / entry.result["params"] for entry in cell.entries])


CELL_COLUMNS: dict[str, Callable[[Cell], Value]] = {
    "dataset": lambda cell: cell.curve[0],
    "network": lambda cell: cell.curve[1],
    "method": lambda cell: cell.method,
    "path": lambda cell: cell.first.settings.get("path", ""),
    "sparsity asked": lambda cell: cell.percent,
    "sparsity": average("sparsity"),
    "sparsity of all": all_zeros,
    "compression": compression,
    "theoretical speed-up": share("macs_nonzero", "macs"),
    "stored bytes": stored,
    "top-1 pruned": before("test_top1"),
    "top-5 pruned": before("test_top5"),
    "n": lambda cell: len(cell.entries),
    "top-1": average("test_top1"),
    "top-1 sd": lambda cell: deviation([*cell.top1.values()]),
    "top-1 low": lambda cell: end(t_interval([*cell.top1.values()]), 0),
    "top-1 high": lambda cell: end(t_interval([*cell.top1.values()]), 1),
    "top-5": average("test_top5"),
    "pairs": lambda cell: len(cell.changes),
    "change": lambda cell: mean(cell.changes) if cell.changes else None,
    "change low": lambda cell: end(t_interval(cell.changes), 0),
    "change high": lambda cell: end(t_interval(cell.changes), 1),
    "loss bound": loss_bound,
    "epochs": lambda cell: mean([entry.epochs for entry in cell.entries]),
    "training multiply-adds per image": training_cost,
    "effective sparsity": effective_sparsity,
    "empty layers": empty_layers,
    "agreement with dense": judgement("agreement"),
    "right to wrong": judgement("broken"),
    "wrong to right": judgement("mended"),
    "calibration error": judgement("ece"),
}
COMPARED = ("compared with", "difference", "p (Holm)")
PERCENT = ("top-", "change", "loss", "difference", "agreement", "right", "wrong", "calibration")  # titles begin so
CHANGES = ("top-1", "change", "change low", "change high")
CLASSES = ("dataset", "network", "method", "sparsity asked", "class", "n", *CHANGES)
SHORT = ("method", "sparsity", "compression", "top-1 pruned", "n", "top-1", "top-1 low", "top-1 high", "change")


def numbers(cells: Sequence[Cell]) -> list[dict[str, Value]]:
    """Return a row of CELL_COLUMNS and COMPARED for each cell; None where there is no number."""
    compared = comparisons(cells)
    return [
        {title: column(cell) for title, column in CELL_COLUMNS.items()}
        | dict(zip(COMPARED, compared.get(place, (None, None, None)), strict=True))
        for place, cell in enumerate(cells)
    ]


def comparisons(cells: Sequence[Cell]) -> dict[int, tuple[str, float, float]]:
    """Return, by place, the method compared with, the mean difference of top-1 by seed, and its Holm-corrected p.

    Each cell is compared with that of the usual method, at the same sparsity, network and dataset. All comparisons of
    one network on one dataset are corrected together. Fewer than two common seeds compare nothing.
    """
    against = usual(cells)
    base = {(c.curve[:2], c.percent): c for c in reversed(cells) if c.method == against[c.curve[:2]]}
    families: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    for place, cell in enumerate(cells):
        other = base.get((cell.curve[:2], cell.percent))
        if other is None or other.method == cell.method:
            continue
        differences = paired(cell.top1, other.top1)
        if (p := paired_p(differences)) is not None:
            families.setdefault(cell.curve[:2], []).append((place, mean(differences), p))
    return {
        place: (against[family], difference, p)
        for family, some in families.items()
        for (place, difference, _), p in zip(some, holm([p for *_, p in some]), strict=True)
    }


def classes(cells: Sequence[Cell]) -> list[dict[str, Value]]:
    """Return a row of CLASSES for each cell and class whose logits are kept: pruning can cost one class all."""
    rows: list[dict[str, Value]] = []
    for cell in cells:
        known = [entry.quality for entry in cell.entries if entry.quality and entry.quality.dense_by_class]
        for name in known[0].by_class if known else ():
            top1 = [quality.by_class[name] for quality in known]
            changes = [new - (quality.dense_by_class or {})[name] for new, quality in zip(top1, known, strict=True)]
            low, high = t_interval(changes) or (None, None)
            figures = (len(known), mean(top1), mean(changes), low, high)
            rows.append(dict(zip(CLASSES, (*cell.curve, cell.percent, name, *figures), strict=True)))
    return rows


def as_csv(rows: Sequence[Mapping[str, Value]], titles: Sequence[str] = (*CELL_COLUMNS, *COMPARED)) -> str:
    """Return the rows with all digits; an empty field where there is no number."""
    packed = io.StringIO()
    writer = csv.DictWriter(packed, titles, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return packed.getvalue()


def shown(value: Value, title: str = "") -> str:
    """Return a value of the column `title` for reading: two digits behind the point of percent, else four in all."""
    if value is None:
        return ""
    if isinstance(value, float) and title.startswith(PERCENT):
        return f"{value:.2f}"
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1e4 else f"{value}"


def as_markdown(rows: Sequence[Mapping[str, Value]]) -> str:
    """Return the rows as a table of all columns."""
    titles = [*CELL_COLUMNS, *COMPARED]
    body = [[shown(row[title], title).replace("|", "\\|") for title in titles] for row in rows]
    lines = [titles, ["---"] * len(titles), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def as_latex(rows: Sequence[Mapping[str, Value]]) -> str:
    """Return a tabular of the columns of SHORT, for booktabs."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"} | {sign: "\\" + sign for sign in "&%$#_{}"}

    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(signs.get(sign, sign) for sign in cell) for cell in cells) + r" \\"

    body = [line([shown(row[title], title) for title in SHORT]) for row in rows]
    top = [rf"\begin{{tabular}}{{l{'r' * (len(SHORT) - 1)}}}", r"\toprule", line(SHORT), r"\midrule"]
    return "\n".join([*top, *body, r"\bottomrule", r"\end{tabular}", ""])
