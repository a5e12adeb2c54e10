"""Accuracy over sparsity, compression and multiply-adds, with every seed and how sure the mean is."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pruning.files import write_whole
from pruning.summary.cells import Cell
from pruning.summary.numbers import CELL_COLUMNS
from pruning.summary.statistics import mean, t_interval

# Okabe and Ito 2008 (jfly.uni-koeln.de/color): told apart with any colour vision; yellow is too light for paper
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLES = ("-", "--", "-.", ":")


def macs_left(cell: Cell) -> float:
    """Return the fraction of the multiply-adds that is left."""
    return mean([entry.result["macs_nonzero"] / entry.result["macs"] for entry in cell.entries])


def compression(cell: Cell) -> float:
    """Return parameters / nonzero parameters."""
    return float(CELL_COLUMNS["compression"](cell) or 0.0)


AXES: dict[str, tuple[str, Callable[[Cell], float], bool]] = {  # file: title, place of a cell, logarithmic
    "sparsity": ("sparsity (fraction of prunable weights)", lambda cell: float(cell.percent), False),
    "compression": ("compression (parameters / nonzero parameters)", compression, True),
    "multiply-adds": ("multiply-adds left (fraction)", macs_left, False),
}


def draw(cells: Sequence[Cell], out: Path) -> list[Path]:
    """Write `DATASET-NETWORK-AXIS.png` and `.svg` for each network and each of AXES; return the files."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.curve[:2], []).append(cell)
    files = []
    for (dataset, arch), group in groups.items():
        for name, (title, place, logarithmic) in AXES.items():
            figure, axes = plt.subplots(1, 2, figsize=(11, 5.2), layout="constrained", sharey=True)
            try:
                for axis, half, values in zip(
                    axes, ("right after pruning", "at the end"), (right_after, at_end), strict=True
                ):
                    _half(axis, group, place, values)
                    axis.set(title=half, xlabel=title, xscale="log" if logarithmic else "linear")
                    if logarithmic:
                        axis.xaxis.set_major_formatter("{x:g}")
                        axis.xaxis.set_minor_formatter("{x:g}")
                axes[0].set_ylabel("test top-1 (percent)")
                figure.suptitle(f"{arch} on {dataset}")
                handles, labels = axes[1].get_legend_handles_labels()
                legend: Any = {"loc": "outside lower center", "ncols": 2, "fontsize": 8, "frameon": False}
                figure.legend(handles, labels, title=_caption(group), title_fontsize=8, **legend)
                files += _save(figure, out / f"{dataset}-{arch}-{name}")
            finally:
                plt.close(figure)
    return files


def _save(figure: Any, stem: Path) -> list[Path]:
    files = []
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        packed = io.BytesIO()
        figure.savefig(packed, format=kind, dpi=130, metadata=metadata)
        write_whole(path := stem.with_name(f"{stem.name}.{kind}"), packed.getbuffer())
        files.append(path)
    return files


def _half(axis: Any, group: Sequence[Cell], place: Callable[[Cell], float], values: Any) -> None:
    """Draw a line per method through the means, with t-intervals and the seeds; and the dense network's band."""
    methods: dict[str, list[Cell]] = {}
    for cell in group:
        if values(cell):
            methods.setdefault(cell.method, []).append(cell)
    for i, (method, some) in enumerate(methods.items()):
        color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
        ordered = sorted(some, key=place)
        means = [mean([*values(cell).values()]) for cell in ordered]
        bars = [t_interval([*values(cell).values()]) for cell in ordered]
        sizes = [(bar[1] - bar[0]) / 2 if bar else 0.0 for bar in bars]
        look = {"color": color, "marker": marker, "linestyle": STYLES[i % len(STYLES)], "capsize": 3}
        places = [place(cell) for cell in ordered]
        axis.errorbar(places, means, yerr=sizes, label=method or "pruned", **look)
        for at, cell in zip(places, ordered, strict=True):
            seeds = [*values(cell).values()]
            axis.plot([at] * len(seeds), seeds, marker, color=color, markersize=3.5, alpha=0.45, linestyle="")
    dense = {seed: top1 for cell in group for seed, top1 in cell.dense.items()}
    if dense:
        low, high = t_interval([*dense.values()]) or (min(dense.values()),) * 2
        axis.axhspan(low, high, color="#999999", alpha=0.3, linewidth=0)
        axis.axhline(mean([*dense.values()]), color="#555555", linewidth=1, label=f"dense (n={len(dense)})")
    axis.grid(alpha=0.25)
    axis.set_ylim(0, 102)


def at_end(cell: Cell) -> Mapping[int, float]:
    """Return top-1 of what the cell wants, by seed."""
    return cell.top1


def right_after(cell: Cell) -> Mapping[int, float]:
    """Return top-1 right after pruning, by seed."""
    return cell.before


def _caption(group: Sequence[Cell]) -> str:
    counts = sorted({len(cell.entries) for cell in group})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Line: mean; bar and grey band: 95 % t-interval of the mean; pale points: single seeds. n = {n} per point."
