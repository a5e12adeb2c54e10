"""Accuracy over sparsity, compression and cost, with every seed and how sure the mean is; kept weights by layer."""

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pruning.files import write_whole
from pruning.summary.cells import Cell
from pruning.summary.numbers import compression, stored, training_cost
from pruning.summary.statistics import mean, t_interval

# Okabe and Ito 2008 (jfly.uni-koeln.de/color): told apart with any colour vision; yellow is too light for paper
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLES = ("-", "--", "-.", ":")
"""As many lines look different from each other as 7 x 4."""

LAYERS = "-layers"  # the end of the name of such a picture

Values = Callable[[Cell], Mapping[int, float]]


def macs_left(cell: Cell) -> float:
    """Return the fraction of the multiply-adds that is left."""
    return mean([entry.result["macs_nonzero"] / entry.result["macs"] for entry in cell.entries])


AXES: dict[str, tuple[str, Callable[[Cell], float], bool]] = {  # file: title, place of a cell, logarithmic
    "sparsity": ("sparsity (fraction of prunable weights)", lambda cell: float(cell.percent), False),
    "compression": ("compression (prunable weights / kept)", compression, True),
    "multiply-adds": ("multiply-adds left (fraction)", macs_left, False),
    "bytes": ("stored bytes (kept weights as float32, and the mask)", stored, True),
    "cost": ("training cost (multiply-adds per training image, dense network included)", training_cost, False),
}


def draw(cells: Sequence[Cell], out: Path) -> list[Path]:
    """Write `DATASET-NETWORK-AXIS.png` and `.svg` for each network and each of AXES, and `...-layers`."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.curve[:2], []).append(cell)
    files: list[Path] = []
    for (dataset, arch), group in groups.items():
        for name, axis in AXES.items():
            with _figure(out / f"{dataset}-{arch}-{name}", files, 2, figsize=(11, 5.2)) as (figure, axes):
                figure.suptitle(f"{arch} on {dataset}")
                _pair(figure, axes, group, *axis)
        if methods := _densities(group):
            size = (11, 1.6 + 0.42 * sum(len(rows) for rows in methods.values()) + 0.5 * len(methods))
            with _figure(out / f"{dataset}-{arch}{LAYERS}", files, len(methods), 1, figsize=size) as (figure, axes):
                figure.suptitle(f"{arch} on {dataset}: kept weights by layer (fraction), at each sparsity")
                _heat(figure, axes, methods)
    return files


@contextmanager
def _figure(stem: Path, files: list[Path], *shape: int, figsize: tuple[float, float]) -> Iterator[tuple[Any, Any]]:
    """Give a figure and its axes; afterwards write it as PNG and SVG, and add these to `files`."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    rows, columns = shape if len(shape) == 2 else (1, *shape)
    figure, axes = plt.subplots(rows, columns, figsize=figsize, layout="constrained", squeeze=False)
    try:
        yield figure, list(axes.flat)
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            packed = io.BytesIO()
            figure.savefig(packed, format=kind, dpi=130, metadata=metadata)
            write_whole(path := stem.with_name(f"{stem.name}.{kind}"), packed.getbuffer())
            files.append(path)
    finally:
        plt.close(figure)


def _pair(
    figure: Any, axes: Any, group: Sequence[Cell], title: str, place: Callable[[Cell], float], logarithmic: bool
) -> None:
    """Draw right after pruning, and at the end; each with its own scale: the first falls to chance."""
    sides: tuple[tuple[str, Values], ...] = (("right after pruning", right_after), ("at the end", at_end))
    for axis, (side, values) in zip(axes, sides, strict=True):
        _half(axis, group, place, values)
        axis.set(title=side, xlabel=title, ylabel="test top-1 (percent)", xscale="log" if logarithmic else "linear")
        if logarithmic:
            places = sorted({place(cell) for cell in group})
            axis.set_xticks(places, [f"{at:.3g}" if at < 1000 else f"{at:,.0f}" for at in places], rotation=30)
            axis.set_xticks([], minor=True)
    handles, labels = axes[1].get_legend_handles_labels()
    legend: Any = {"loc": "outside lower center", "ncols": 2, "fontsize": 8, "frameon": False}
    figure.legend(handles, labels, title=_caption(group), title_fontsize=8, **legend)


def _half(axis: Any, group: Sequence[Cell], place: Callable[[Cell], float], values: Values) -> None:
    """Draw a line per method through the means, with t-intervals and the seeds; and the dense network's band."""
    methods: dict[str, list[Cell]] = {}
    for cell in group:
        methods.setdefault(cell.method, [])
        if values(cell):
            methods[cell.method].append(cell)
    points = []
    for i, (method, some) in enumerate(methods.items()):
        ordered = sorted(some, key=place)
        seeds = [[*values(cell).values()] for cell in ordered]
        points += [value for each in seeds for value in each]
        bars = [t_interval(each) for each in seeds]
        sizes = [(bar[1] - bar[0]) / 2 if bar else 0.0 for bar in bars]
        color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
        look = {"color": color, "marker": marker, "linestyle": STYLES[i % len(STYLES)], "capsize": 3}
        places = [place(cell) for cell in ordered]
        axis.errorbar(places, [*map(mean, seeds)], yerr=sizes, label=method or "pruned", **look)
        for at, each in zip(places, seeds, strict=True):
            axis.plot([at] * len(each), each, marker, color=color, markersize=3.5, alpha=0.45, linestyle="")
    dense = {seed: top1 for cell in group for seed, top1 in cell.dense.items()}
    if dense:
        low, high = t_interval([*dense.values()]) or (min(dense.values()),) * 2
        axis.axhspan(low, high, color="#999999", alpha=0.3, linewidth=0)
        axis.axhline(mean([*dense.values()]), color="#555555", linewidth=1, label=f"dense (n={len(dense)})")
    axis.grid(alpha=0.25)
    if points := [*points, *dense.values()]:  # wide intervals of few seeds may leave the picture, no seed does
        margin = max(0.08 * (max(points) - min(points)), 0.5)
        axis.set_ylim(max(min(points) - margin, -1), min(max(points) + margin, 101))


def right_after(cell: Cell) -> Mapping[int, float]:
    """Return top-1 right after pruning, by seed."""
    return cell.before


def at_end(cell: Cell) -> Mapping[int, float]:
    """Return top-1 of what the cell wants, by seed."""
    return cell.top1


def _caption(group: Sequence[Cell]) -> str:
    counts = sorted({len(cell.entries) for cell in group})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Line: mean; bar and grey band: 95 % t-interval of the mean; pale points: single seeds. n = {n} per point."


def _densities(group: Sequence[Cell]) -> dict[str, dict[str, dict[str, float]]]:
    """Return by method, sparsity and layer the fraction of weights kept, in the mean over the seeds that tell it."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for cell in group:
        known = [layers for entry in cell.entries if (layers := entry.result.get("layers"))]
        if known:
            means = {name: mean([each[name][0] / each[name][1] for each in known if name in each]) for name in known[0]}
            path = cell.first.settings.get("path")
            found.setdefault(cell.method, {})[f"{cell.percent:g}" + (f" ({path})" if path else "")] = means
    return found


def _heat(figure: Any, axes: Any, methods: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Draw a row for each sparsity and a column for each layer, darker where more is kept."""
    image = None
    for axis, (method, rows) in zip(axes, methods.items(), strict=True):
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        values = [[row.get(name, math.nan) for name in names] for row in rows.values()]
        image = axis.imshow(values, aspect="auto", cmap="cividis_r", vmin=0, vmax=1, interpolation="nearest")
        axis.set_yticks(range(len(rows)), list(rows))
        step = math.ceil(len(names) / 60)  # more names than that run into each other
        shown = [name.removesuffix(".weight") for name in names][::step]
        axis.set_xticks(range(0, len(names), step), shown, rotation=90, fontsize=7)
        axis.set_title(method or "pruned", fontsize=9)
        axis.set_ylabel("sparsity", fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.8, label="kept")
