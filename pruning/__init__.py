"""How far can a network be pruned, and where is the pruned network?

The names in `__all__` are the library; docs/library.md shows them at work. They are imported when they are first used,
so that `import pruning` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruning.archs import ARCHS, build, initialise
    from pruning.checkpoints import Checkpoint
    from pruning.data import DATASETS, DatasetSettings, load_data
    from pruning.errors import UserError
    from pruning.export import load, save_onnx, save_sparse
    from pruning.masks import CRITERIA, SCOPES, Criterion, Mask, Scoring, keep_top, masked, prunable, prune, sparsity
    from pruning.masks.cost import cost
    from pruning.pipeline.results import RESULTS
    from pruning.report import COLUMNS
    from pruning.runs import Run, Step, results
    from pruning.stages import STAGES, Context, Stage
    from pruning.training import OPTIMIZERS, SCHEDULES, TrainRecipe, evaluate, fit

__version__ = "0.3.0"

_HOMES = {
    "pruning.archs": ("ARCHS", "build", "initialise"),
    "pruning.checkpoints": ("Checkpoint",),
    "pruning.data": ("DATASETS", "DatasetSettings", "load_data"),
    "pruning.errors": ("UserError",),
    "pruning.export": ("load", "save_onnx", "save_sparse"),
    "pruning.masks": (
        *("CRITERIA", "SCOPES", "Criterion", "Mask", "Scoring"),
        *("cost", "keep_top", "masked", "prunable", "prune", "sparsity"),
    ),
    "pruning.pipeline.results": ("RESULTS",),
    "pruning.report": ("COLUMNS",),
    "pruning.runs": ("Run", "Step", "results"),
    "pruning.stages": ("STAGES", "Context", "Stage"),
    "pruning.training": ("OPTIMIZERS", "SCHEDULES", "TrainRecipe", "evaluate", "fit"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ARCHS",
    "COLUMNS",
    "CRITERIA",
    "DATASETS",
    "OPTIMIZERS",
    "RESULTS",
    "SCHEDULES",
    "SCOPES",
    "STAGES",
    "Checkpoint",
    "Context",
    "Criterion",
    "DatasetSettings",
    "Mask",
    "Run",
    "Scoring",
    "Stage",
    "Step",
    "TrainRecipe",
    "UserError",
    "build",
    "cost",
    "evaluate",
    "fit",
    "initialise",
    "keep_top",
    "load",
    "load_data",
    "masked",
    "prunable",
    "prune",
    "results",
    "save_onnx",
    "save_sparse",
    "sparsity",
]


if not TYPE_CHECKING:  # else a type checker would take every name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'pruning' has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
