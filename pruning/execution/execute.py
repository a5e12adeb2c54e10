"""Make one step: claim it, give its stage what it needs, keep the record, write the result last."""

import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path

from pruning import data, report, tracking
from pruning.checkpoints import Checkpoint, load, load_as
from pruning.env import Env
from pruning.errors import Interrupted, UserError, naming
from pruning.execution.recorder import RunRecorder
from pruning.execution.stop import StopRequest
from pruning.files import CannotWriteError, write_json
from pruning.runs import Ref, Result, Run, Step, claims, is_file
from pruning.runs.provenance import describe
from pruning.stages import STAGES, Context, Inputs


def run_step(step: Step, env: Env, reporter: tracking.Reporter, stop: StopRequest) -> Result:
    """Return the result of `step`, made here unless it is there already; its parent must be done.

    While another process makes it, wait for that. Raises Interrupted when `stop` was asked for, with the state saved.
    """
    noted = False
    while (result := try_run_step(step, env, reporter, stop)) is None:
        if not noted:
            reporter.note(f"{step.name}: waiting, it is made by {claims.describe(env.runs / step.name)}")
        noted = True
        time.sleep(0.5)
    return result


def try_run_step(step: Step, env: Env, reporter: tracking.Reporter, stop: StopRequest) -> Result | None:
    """As `run_step`, but return None at once while another process makes the step."""
    run = Run.for_step(step, env.runs)
    if (result := run.result()) is not None:
        run.resume.unlink(missing_ok=True)  # left by a process that was killed after writing result.json
        return result
    if stop.signal:
        raise Interrupted
    try:
        if (claim := claims.take(run.path)) is None:
            return None
        _claimed(step, run, claim, env, reporter, stop)
    except CannotWriteError as error:
        raise UserError(f"{error}, with env.runs=DIR") from error
    return run.result()


def _claimed(
    step: Step, run: Run, claim: claims.Claim, env: Env, reporter: tracking.Reporter, stop: StopRequest
) -> None:
    """Make the step under `claim`; whatever happens, write down what did, and give the claim back."""
    try:
        if not run.done:  # done by another while this process took the claim
            (run.path / "failed.json").unlink(missing_ok=True)
            run.write_config(step, describe(env.torch_device()))
            _run_stage(step, env, RunRecorder(run, step, claim, reporter, stop))
        claim.forget()
    except BaseException as error:
        try:
            if isinstance(error, Exception) and not isinstance(error, (Interrupted, claims.LostClaim)):
                text = "".join(traceback.format_exception(error))
                failure = {"error": last_line(error), "traceback": text, "when": time.time()}
                write_json(run.path / "failed.json", failure)
            claim.release()
        except UserError:  # the disk refuses this too; the first error is the one to show
            pass
        raise
    finally:
        reporter.end()


def _run_stage(step: Step, env: Env, recorder: RunRecorder) -> None:
    """Run the stage and write what it leaves, the result last."""
    run, reporter, stage = recorder.run, recorder.reporter, STAGES[step.stage]
    recipe = stage.recipe.read(step.recipe, step.stage)
    images = _dataset(step, env, reporter)
    reporter.begin(step.name, step.epochs * len(images.train), len(run.rows()) * len(images.train))
    config = step.spec | {"percent": step.sparsity or 0.0}
    about = {"id": step.id, "name": step.name, "stage": step.stage, "config": config}
    recorder.tracker = tracking.tracker(asdict(env.wandb), about, run.rows(), env.runs / ".wandb", reporter.note)
    try:
        with naming(step.stage, stage.recipe.KEYS):
            checkpoint = stage.run(_context(step, images, env, recorder), recipe)
        result = report.measure_result(
            step, checkpoint, images, run, seconds=recorder.elapsed(), just_pruned=stage.prunes
        )
        recorder.claim.check()
        checkpoint.save(run.model)
        picture = report.picture(run, checkpoint)
        recorder.tracker.finish(dict(result), report.layers(checkpoint), picture, run.model)
        write_json(run.path / "result.json", result)
        run.resume.unlink(missing_ok=True)
    finally:
        recorder.tracker.close()


def _context(step: Step, images: data.Data, env: Env, recorder: RunRecorder) -> Context:
    """Return what the stage is given."""
    return Context(
        arch=step.arch["name"],
        num_classes=len(images.classes),
        data=images,
        seed=step.seed,
        precision=step.precision,
        parent=None if step.parent is None else _checkpoint(step, step.parent, env.runs),
        inputs=Inputs({role: partial(_checkpoint, step, ref, env.runs) for role, ref in step.inputs.items()}),
        hooks=recorder,
    )


def _checkpoint(step: Step, ref: Ref, runs: Path) -> Checkpoint:
    """Read a checkpoint that the step starts from or reads; a file from elsewhere is checked against the network."""
    path = step.place(ref, runs)
    if not is_file(ref):
        return load(path)
    with naming(keys={"path": "resume"}):
        return load_as(path, step.arch["name"], step.num_classes)


def _dataset(step: Step, env: Env, reporter: tracking.Reporter) -> data.Data:
    planned = dict(step.dataset)
    fingerprint = planned.pop("fingerprint", None)
    settings = data.DatasetSettings.read(planned | {"root": step.root}, "dataset")
    with naming("dataset"):
        return _loaded(settings, fingerprint, env.data, str(env.torch_device()), reporter.work)


@lru_cache(maxsize=2)
def _loaded(
    settings: data.DatasetSettings, fingerprint: str | None, cache: Path, device: str, progress: Callable[..., None]
) -> data.Data:
    """Load a dataset once for all the steps of this process; UserError if it is no longer the one that was planned."""
    if fingerprint and data.info(settings, cache=cache).fingerprint != fingerprint:
        raise UserError(f"the images in {settings.root} have changed since this was planned; run the command again")
    return data.load_data(settings, cache=cache, device=device, progress=progress)


def last_line(error: Exception) -> str:
    """Return what a traceback would end with, in one line; for a UserError its text."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
