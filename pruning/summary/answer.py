"""The answer in words: how far each network can be pruned, how sure that is, and what would make it surer."""

import shlex
from collections.abc import Callable, Sequence

from pruning.program import COMMAND
from pruning.summary.cells import Cell, plain
from pruning.summary.published import published
from pruning.summary.statistics import CONFIDENCE, ENOUGH, mean, seeds_needed, upper_bound


def answer(cells: Sequence[Cell], tolerance: float, command: Callable[[Cell, Sequence[int]], str | None]) -> str:
    """Return a paragraph for each network, dataset and method; `tolerance` is in points of top-1.

    `command(cell, seeds)` says what makes these further seeds of a cell, or None.
    """
    curves: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        curves.setdefault(cell.curve, []).append(cell)
    return "\n\n".join(_of_curve(sorted(c, key=lambda x: x.percent), tolerance, command) for c in curves.values())


def below(cell: Cell, tolerance: float) -> bool:
    """Return whether the loss is below the tolerance with 95 % confidence."""
    bound = upper_bound([-change for change in cell.changes])
    return bound is not None and bound < tolerance


def _of_curve(curve: list[Cell], tolerance: float, command: Callable[[Cell, Sequence[int]], str | None]) -> str:
    dataset, arch, method = curve[0].curve
    good = [cell for cell in curve if below(cell, tolerance)]
    limit = f"{tolerance:g} points"
    if good:
        best = good[-1]
        bound = upper_bound([-change for change in best.changes]) or 0.0
        said = (
            f"sparsity {best.percent:g} loses less than {limit} of top-1, with {CONFIDENCE:.0%} confidence "
            f"(change {mean(best.changes):+.2f}, loss at most {bound:.2f}, n={len(best.changes)})"
        )
    else:
        said = f"no sparsity can be said to lose less than {limit} of top-1 with {CONFIDENCE:.0%} confidence"
    lines = [f"{arch} on {dataset}, {method or 'pruned'}: {said}."]
    if known := published(dataset, arch):
        lines.append(f"  {known}.")
    if good and (failing := [c for c in curve if c.percent < good[-1].percent and not below(c, tolerance)]):
        listed = ", ".join(f"{cell.percent:g}" for cell in failing)
        lines.append(f"  not monotone: at the lower {listed} this cannot be said; take the figure with care.")
    if good and good[-1] is curve[-1]:
        lines.append("  it is the largest sparsity that was tried: the limit may lie above it.")
    for cell in curve:
        lines += _of_cell(cell, tolerance, command, wanted=not good or cell.percent > good[-1].percent)
    return "\n".join(lines)


def _of_cell(
    cell: Cell, tolerance: float, command: Callable[[Cell, Sequence[int]], str | None], *, wanted: bool
) -> list[str]:
    """Return what is to be said of one cell: too few seeds, no dense network, what is missing to be sure."""
    n, pairs = len(cell.entries), len(cell.changes)
    lines = []
    if pairs < n:
        lines.append(
            f"  at {cell.percent:g}: {n - pairs} of {n} seeds have no dense network in env.runs to compare with."
        )
    if n < ENOUGH:
        lines.append(f"  warning: at {cell.percent:g} there {'is' if n == 1 else 'are'} only {n} of {ENOUGH} seeds.")
    losses = [-change for change in cell.changes]
    if not pairs or below(cell, tolerance) or not (wanted or n < ENOUGH):
        return lines
    needed = seeds_needed(losses, tolerance)
    if needed is None:
        return lines
    more = max(needed, ENOUGH) - pairs
    if more <= 0:
        return lines
    seeds = [seed for seed in range(max(cell.top1) + 1 + more) if seed not in cell.top1][:more]
    lines.append(f"  to be sure: about {more} more seed{'s' * (more > 1)} at {cell.percent:g}")
    if made_by := command(cell, seeds):
        lines[-1] += f":\n    {made_by}"
    return lines


def command_of(overrides: dict[str, object], seeds: Sequence[int]) -> str:
    """Return the command line that makes the cell of these overrides with these seeds."""
    words = [f"{key}={plain(value)}" for key, value in overrides.items() if key != "seed"]
    return " ".join([COMMAND, "-m", *map(shlex.quote, words), f"seed={','.join(map(str, seeds))}"])
