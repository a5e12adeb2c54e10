"""Send to W&B what is done in a directory of runs and not there yet."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path

from pruning import report, tracking
from pruning.checkpoints import load
from pruning.env import Env
from pruning.errors import UserError, printable
from pruning.execution.recorder import about
from pruning.files import DamagedError
from pruning.runs import Run, every
from pruning.runs.records import recorded_sweeps
from pruning.runs.run import lineage


def sync(env: Env, note: Callable[[str], None]) -> tracking.Sync:
    """Send all that is done in env.runs, parents first, and `note` a line for each run; WandbError if W&B fails.

    What is damaged is named and left out; what is not done is left out.
    """
    server = tracking.Sync(asdict(env.wandb), env.runs / ".wandb")
    groups = groups_of(env.runs)
    found = sorted(every(env.runs), key=lambda run: (len(lineage(run)), run.path.name))
    there = sent = 0
    for place, run in enumerate(found, 1):
        try:
            if left := left_by(run, env.runs, groups):
                what = server.send(left)
                there, sent = there + 1, sent + bool(what)
                note(f"[{place}/{len(found)}] {run.path.name}: " + (f"sent {', '.join(what)}" if what else "is there"))
        except tracking.WandbError:
            raise
        except UserError as error:
            note(f"[{place}/{len(found)}] {run.path.name}: not sent, {printable(str(error))}")
    note(f"W&B has {there} of {len(found)} runs, {sent} of them were sent now: {server.place}")
    return server


def groups_of(runs: Path) -> dict[str, str]:
    """Return, by step, the group of the first sweep that wanted it."""
    return {step.id: sweep.group or sweep.name for sweep in reversed(recorded_sweeps(runs)[0]) for step in sweep.steps}


def left_by(run: Run, runs: Path, groups: Mapping[str, str]) -> tracking.Left | None:
    """Return what a step that is done has left; None if it is not done, DamagedError if that is damaged."""
    step, result = run.step(), run.finished()
    if step is None or result is None:
        return None
    rows = run.rows()
    if [row["epoch"] for row in rows] != list(range(1, result["epochs"] + 1)):
        raise DamagedError(run.path / "metrics.jsonl", "epochs are missing")
    picture = run.path / "picture.png"
    return tracking.Left(
        about=about(step, runs),
        rows=rows,
        result=dict(result),
        table=cache(lambda: report.layers(load(run.model, sha256=result.get("model_sha256")))),
        picture=picture if picture.is_file() else None,
        model=run.model,
        group=groups.get(step.id),
    )
