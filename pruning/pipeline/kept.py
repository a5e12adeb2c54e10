"""Whether the networks of an earlier epoch, from which steps start, are there or will be."""

from collections.abc import Iterable
from pathlib import Path

from pruning.errors import UserError
from pruning.runs import Step, StepState, run_of, status_of


def check(steps: Iterable[Step], needed: Iterable[Step], runs: Path, redo: str | None) -> None:
    """Raise a UserError if a `needed` step reads what a run among `steps` has not kept, and will not any more.

    Runs of the stage `redo` will be made anew, and keep what is asked for.
    """
    known = {step.id: step for step in steps}
    for step in needed:
        for role, ref in step.inputs.items():
            source, (_, _, epoch) = known.get(run_of(ref)), ref.partition("@")
            if not source or not epoch or source.stage == redo:
                continue
            if not _there_or_due(step.place(ref, runs), source, int(epoch), runs):
                raise UserError(
                    f"{step.stage} reads {role}, the network of {source.name} as it was after epoch {epoch}, and that "
                    f"run was made without it; give redo={source.stage} to make it, and what came of it, anew"
                )


def _there_or_due(path: Path, source: Step, epoch: int, runs: Path) -> bool:
    if path.exists():
        return True
    status = status_of(source, runs)
    return status.state != StepState.DONE and status.epoch <= epoch  # its row comes first
