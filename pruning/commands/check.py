"""`stage=check`: the zeros of a checkpoint, layer by layer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning import report
from pruning.commands.source import source_of
from pruning.commands.ways import Ways
from pruning.env import Env
from pruning.errors import UserError, naming
from pruning.export.zeros import Layer, count_zeros
from pruning.tracking import reporter


def run(config: dict[str, Any], _ways: Ways) -> None:
    """Print the zeros of what `resume=` names; UserError, after the table, if they are not those of its mask."""
    env, resume = Env.from_config(config.get("env")), config.get("resume")
    if resume is None:
        raise UserError("resume is not set: stage=check needs resume=FILE, whose zeros are counted")
    _, path = source_of(resume, env.runs)
    with naming(keys={"path": "resume"}):
        layers = count_zeros(path)
    reporter().note(check_text(layers, path))
    if wrong := sum(layer.alive or 0 for layer in layers):
        first = next(layer.name for layer in layers if layer.alive)
        raise UserError(f"{path}: {wrong:,} weights that the mask prunes are not zero, the first in {first!a}")


def check_text(layers: Sequence[Layer], path: Path) -> str:
    """Return the table of the layers, the totals, and whether the zeros are those of the mask."""
    shown = [layer for layer in layers if layer.prunable]
    totals = (("all conv and linear weights", shown), ("all parameters", layers))
    sums = [Layer(name, (), sum(x.weights for x in some), sum(x.zeros for x in some)) for name, some in totals]
    columns = ("layer", "shape", "weights", "zeros", "sparsity")
    rows = [
        (x.name, "x".join(map(str, x.shape)), f"{x.weights:,}", f"{x.zeros:,}", f"{x.sparsity:.4f}")
        for x in (*shown, *sums)
    ]
    return f"{report.text(rows, columns)}\n\n{path}: {mask_text(layers)}"


def mask_text(layers: Sequence[Layer]) -> str:
    """Return in words whether the zeros are those of the mask."""
    masked = [layer for layer in layers if layer.pruned is not None]
    if not masked:
        return "no mask in this file"
    pruned, alive = (sum(getattr(layer, name) for layer in masked) for name in ("pruned", "alive"))
    more = sum(layer.zeros for layer in masked) - (pruned - alive)
    if alive:
        return f"the mask does not agree: {alive:,} of the {pruned:,} weights that it prunes are not zero"
    also = f", and {more:,} that it keeps are zero too" if more else ", and no other"
    return f"the mask agrees: all {pruned:,} weights that it prunes are zero{also}"
