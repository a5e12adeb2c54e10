"""Make one step: claim it, give its stage what it needs, keep the record, write the result last."""

import time
import traceback
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

from pruning import data, report, tracking
from pruning.checkpoints import ChangedError, Checkpoint, load
from pruning.env import Env
from pruning.errors import Interrupted, UserError, naming, printable
from pruning.execution.recorder import RunRecorder
from pruning.execution.stop import StopRequest
from pruning.export import load_as
from pruning.files import CannotWriteError, write_json
from pruning.runs import VERSION, Outputs, Ref, Result, Run, Step, claims, is_file
from pruning.runs.provenance import describe
from pruning.settings import Settings
from pruning.stages import STAGES, Context, Inputs, code_of, fed_as
from pruning.training import StateError


def run_step(step: Step, env: Env, reporter: tracking.Reporter, stop: StopRequest) -> Result:
    """Return the result of `step`, made here unless it is there already; its parent must be done.

    While another process makes it, wait for that. Raises Interrupted when `stop` was asked for, with the state saved.
    """
    noted = False
    while (result := try_run_step(step, env, reporter, stop)) is None:
        if not noted:
            holder = claims.describe(env.runs / step.name, "another process")
            reporter.note(f"{step.name}: waiting, it is made by {holder}")
        noted = True
        time.sleep(0.5)
    return result


def try_run_step(step: Step, env: Env, reporter: tracking.Reporter, stop: StopRequest) -> Result | None:
    """As `run_step`, but return None at once while another process makes the step, also if it has taken it over."""
    run = Run.for_step(step, env.runs)
    if result := _taken(run):
        return result
    if stop.signal:
        raise Interrupted
    try:
        if (claim := claims.take(run.path)) is None:
            return None
        _make(step, run, claim, env, reporter, stop)
    except claims.LostClaim as error:
        reporter.note(f"{error}; what it makes is taken")
    except CannotWriteError as error:
        raise UserError(f"{error}, with env.runs=DIR") from error
    return _taken(run)


def _taken(run: Run) -> Result | None:
    """Return the result if the step is done, and remove what an overtaken process, perhaps this one, wrote too late."""
    if result := run.finished():
        run.tidy()
    return result


def _make(step: Step, run: Run, claim: claims.Claim, env: Env, reporter: tracking.Reporter, stop: StopRequest) -> None:
    """Make the step under `claim`; whatever happens, write down what did, and give the claim back."""
    try:
        if not run.finished():  # by another while this process took the claim
            _run_stage(step, env, RunRecorder(run, step, claim, reporter, stop))
        claim.forget()
        run.tidy()
    except BaseException as error:
        lost = claim.lost()
        failed = isinstance(error, Exception) and not isinstance(error, Interrupted)
        if failed and not lost:
            text = "".join(traceback.format_exception(error))
            about = {"error": last_line(error), "traceback": text, "when": time.time()}
            try:
                write_json(run.path / "failed.json", about, claim.check)
            except claims.LostClaim:
                lost = True
            except UserError:  # the disk refuses this too; the first error is the one to show
                pass
        claim.release()
        if failed and lost and not isinstance(error, claims.LostClaim):  # whatever it was, others go on with the step
            raise claims.LostClaim(f"{run.path.name} was taken over by another process") from error
        raise
    finally:
        reporter.end()


def _run_stage(step: Step, env: Env, recorder: RunRecorder) -> None:
    """Run the stage and write what it leaves, the result last."""
    stage = STAGES[step.stage]
    recipe = stage.recipe.read(step.recipe, step.stage)
    _check_code(step, recipe)
    recorder.begin(describe(env.torch_device()))
    try:
        images = _dataset(step, env, recorder.reporter)
        context = _context(step, images, env, recorder)
        recorder.watch(context.data, env)
        with naming(step.stage, stage.recipe.KEYS):
            checkpoint = _checked(stage.run(context, recipe), step)
        result, outputs = report.measure_result(
            step,
            checkpoint,
            context.data,
            env.runs,
            rows=recorder.rows,
            seconds=recorder.elapsed(),
            just_pruned=stage.prunes and not stage.trains,
        )
        _leave(result, checkpoint, outputs if env.logits else None, recorder)
    except StateError as error:
        text = f"{recorder.run.resume} is not the state of this step ({error}); delete it to start again"
        raise UserError(text) from None
    finally:
        recorder.close()


def _leave(result: Result, checkpoint: Checkpoint, outputs: Outputs | None, recorder: RunRecorder) -> None:
    """Write what the step has made, the result last."""
    run = recorder.run
    result["model_sha256"] = checkpoint.save(run.model, recorder.claim.check)
    if kept := recorder.snapshots():
        result["snapshots"] = kept
    if outputs:
        outputs.save(run.path, recorder.claim.check)
    picture = report.picture(run, checkpoint, recorder.claim.check)
    recorder.tracker.finish(dict(result), report.layers(checkpoint), picture, run.model)
    recorder.finish(result)


def _checked(made: Checkpoint, step: Step) -> Checkpoint:
    """Return what the stage has made, if it is a network; UserError if it is not: what is not finite is no result."""
    try:
        return made.check()
    except UserError as error:
        raise UserError(f"what {step.name} made {error}") from None


def _check_code(step: Step, recipe: Settings) -> None:
    """Refuse to make with other code what was planned with this one."""
    if step.version != VERSION:
        planned = f"planned for version {step.version} of the steps, this program makes version {VERSION}"
        raise UserError(f"{step.name} was {planned}; give its command again")
    if (now := code_of(step.stage, recipe, step.dataset["name"], step.network)) != step.code:
        changed = sorted(name for name in {*now, *step.code} if now.get(name) != step.code.get(name))
        raise UserError(f"{', '.join(changed)} changed after {step.name} was planned; give its command again")


def _context(step: Step, images: data.Data, env: Env, recorder: RunRecorder) -> Context:
    """Return what the stage is given."""
    parent = None if step.parent is None else _checkpoint(step, step.parent, env.runs)
    return Context(
        arch=step.network,
        num_classes=len(images.classes),
        data=fed_as(images, parent),
        seed=step.seed,
        precision=step.precision,
        purpose=step.purpose,
        parent=parent,
        inputs=Inputs({role: partial(_checkpoint, step, ref, env.runs) for role, ref in step.inputs.items()}),
        hooks=recorder,
        cuda_graph=env.cuda_graph,
    )


def _checkpoint(step: Step, ref: Ref, runs: Path) -> Checkpoint:
    """Read a checkpoint that the step starts from or reads; UserError if it is not the one that was planned."""
    path = step.place(ref, runs)
    try:
        if is_file(ref):
            with naming(keys={"path": "resume" if ref == step.parent else "prune.mask_from"}):
                return load_as(path, step.network, step.num_classes, sha256=ref.removeprefix("sha256:"))
        source = Run(path.parent)
        if not (result := source.finished()):
            raise UserError(f"{step.name} needs {source.path.name}, which is not done; run its command again first")
        return load(path, sha256=source.digest(path, result))
    except ChangedError as error:
        remedy = "give the command again" if is_file(ref) else f"delete {path.parent} to make it again"
        raise UserError(f"{error}; {remedy}") from None


def _dataset(step: Step, env: Env, reporter: tracking.Reporter) -> data.Data:
    planned = dict(step.dataset)
    fingerprint = planned.pop("fingerprint", None)
    settings = data.DatasetSettings.at(planned, step.root)
    with naming("dataset"):
        device, limit = str(env.torch_device()), env.resident_gb
        return _loaded(settings, fingerprint, env.data, device, limit, reporter.work)


@lru_cache(maxsize=2)
def _loaded(
    settings: data.DatasetSettings,
    fingerprint: str | None,
    cache: Path,
    device: str,
    limit: float | None,
    progress: Callable[..., None],
) -> data.Data:
    """Load a dataset once for all the steps of this process; UserError if it is no longer the one that was planned."""
    if fingerprint and data.info(settings, cache=cache).fingerprint != fingerprint:
        raise UserError(f"the images in {settings.place} have changed since this was planned; run the command again")
    return data.load_data(settings, cache=cache, device=device, progress=progress, resident_gb=limit)


def last_line(error: BaseException) -> str:
    """Return what a traceback would end with, in one line; for a UserError its text."""
    if isinstance(error, UserError):
        return printable(str(error))
    return printable(f"{type(error).__name__}: {' '.join(str(error).split())}")
