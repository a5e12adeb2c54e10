"""How far each layer is pruned."""

from typing import Any

from pruning.checkpoints import Checkpoint


def layers(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Return `layer weights kept sparsity` of each masked layer, in the network's order."""
    order = [name for name in checkpoint.weights if name in checkpoint.mask]
    kept = {name: int(checkpoint.mask[name].sum()) for name in order}
    sizes = {name: checkpoint.mask[name].numel() for name in order}
    return [
        {"layer": name, "weights": sizes[name], "kept": kept[name], "sparsity": 1 - kept[name] / sizes[name]}
        for name in order
    ]
