"""Steps and the directories that they leave."""

from pruning.runs.outputs import Outputs
from pruning.runs.result import Result
from pruning.runs.run import Run, every, find, lineage
from pruning.runs.status import LOST, StepState, StepStatus, status_of, statuses
from pruning.runs.step import VERSION, Ref, Step, is_file, run_of, snapshot_name
from pruning.runs.table import results

__all__ = [
    "LOST",
    "VERSION",
    "Outputs",
    "Ref",
    "Result",
    "Run",
    "Step",
    "StepState",
    "StepStatus",
    "every",
    "find",
    "is_file",
    "lineage",
    "results",
    "run_of",
    "snapshot_name",
    "status_of",
    "statuses",
]
