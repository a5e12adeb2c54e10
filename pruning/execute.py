"""Make one step: claim it, give its stage what it needs, keep the record, write the result last."""

import json
import time
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from pruning import archs, claims, data, hosts, report, tracking
from pruning.checkpoints import Checkpoint, load, read
from pruning.cost import cost
from pruning.errors import UserError
from pruning.files import write_json
from pruning.journal import RunJournal, Stop
from pruning.masks import sparsity
from pruning.recipes import RECIPES
from pruning.runs import Env, Run, Step
from pruning.stages import STAGES, Context
from pruning.training import Interrupted, measure

Result = dict[str, Any]


@lru_cache(maxsize=2)
def dataset(spec: str, root: str | None, cache: Path, device: str, report_work: Callable[..., None]) -> data.Data:
    """Load a dataset once for all the steps of this process; UserError if it is no longer the one that was planned."""
    settings = json.loads(spec)
    planned = settings.pop("fingerprint", None)
    if planned and data.info(settings["name"], root=root, cache=cache).fingerprint != planned:
        raise UserError(f"the images in {root} have changed since this was planned; run the command again")
    defaults = {"pad": 0, "flip": False}
    return data.load(root=root, cache=cache, device=device, progress=report_work, **defaults | settings)


def make(step: Step, env: Env, reporter: tracking.Reporter, stop: Stop) -> Result:
    """Return the result of `step`, made here unless it is there already; its parent must be done.

    While another process makes it, wait for that. Raises Interrupted when `stop` was asked for, with the state saved.
    """
    said = False
    while (result := make_unless_claimed(step, env, reporter, stop)) is None:
        if not said:
            reporter.note(f"{step.name}: waiting, it is made by {claims.describe(env.runs / step.name)}")
        said = True
        time.sleep(0.5)
    return result


def make_unless_claimed(step: Step, env: Env, reporter: tracking.Reporter, stop: Stop) -> Result | None:
    """As `make`, but return None at once while another process makes the step."""
    run = Run.of(step, env.runs)
    if (result := run.result()) is not None:
        run.resume.unlink(missing_ok=True)  # left by a process that was killed right after its last word
        return result
    if stop.signal:
        raise Interrupted
    if (claim := claims.take(run.path)) is None:
        return None
    attempt(step, run, claim, env, reporter, stop)
    return run.result()


def attempt(step: Step, run: Run, claim: claims.Claim, env: Env, reporter: tracking.Reporter, stop: Stop) -> None:
    """Make the step under `claim`; whatever happens, say on disk what did, and give the claim back."""
    try:
        if not run.result():  # done by another while this process took the claim
            (run.path / "failed.json").unlink(missing_ok=True)
            run.write_config(step, hosts.describe(hosts.device(env.device)))
            perform(step, env, RunJournal(run, step, claim, reporter, stop))
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


def last_line(error: Exception) -> str:
    """Return what a traceback would end with, in one line; for a UserError its text."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def perform(step: Step, env: Env, journal: RunJournal) -> None:
    """Run the stage and write what it leaves, the result last."""
    run, reporter = journal.run, journal.reporter
    device = hosts.device(env.device)
    images = dataset(json.dumps(step.dataset), step.aside.get("root"), env.data, str(device), reporter.work)
    classes = len(images.classes)
    parent = parent_of(step, env)
    context = Context(step.arch["name"], classes, images, step.seed, step.precision, parent, journal)
    reporter.begin(step.name, step.epochs * len(images.train), len(run.rows()) * len(images.train))
    about = {"id": step.id, "name": step.name, "stage": step.stage, "config": step.spec | {"percent": step.percent}}
    journal.mirror = tracking.mirror(env.wandb, about, run.rows(), env.runs / ".wandb", reporter.note)
    try:
        checkpoint = STAGES[step.stage](context, RECIPES[step.stage].read(step.recipe))
        result = figures(step, checkpoint, context, env, journal)
        journal.claim.check()
        checkpoint.save(run.model)
        picture = report.picture(run, checkpoint)
        journal.mirror.finish(result, report.layers(checkpoint), picture, run.model)
        write_json(run.path / "result.json", result)
        run.resume.unlink(missing_ok=True)
    finally:
        journal.mirror.close()


def parent_of(step: Step, env: Env) -> Checkpoint | None:
    """Return the checkpoint that the step starts from."""
    if step.parent is None:
        return None
    name, classes = step.arch["name"], step.aside["num_classes"]
    if file := step.aside.get("file"):
        return read(Path(file), archs.build(name, classes), Checkpoint({}, {}, name, classes, {}))
    return load(env.runs / step.aside["parent"] / "model.safetensors")


def figures(step: Step, checkpoint: Checkpoint, context: Context, env: Env, journal: RunJournal) -> Result:
    """Measure what the step made, on its final weights, and return the content of result.json."""
    model = checkpoint.load_into(archs.build(context.arch, context.num_classes))
    height, width = context.data.train.images.shape[1:3]
    counted = cost(model, checkpoint.mask, (3, height, width))
    model.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    measured = measure(model, context.data, step.precision)
    parent, rows = journal.run.parent(), journal.run.rows()
    before: dict[str, float] | None
    if step.stage == "prune":
        before = {name: value for name, value in measured.items() if name.startswith("test_")}
    else:  # handed down the chain from the last pruning
        before = ((parent.result() if parent else None) or {}).get("before")
    return {
        "id": step.id,
        "stage": step.stage,
        "parent": step.parent,
        "dataset": step.dataset["name"],
        "arch": context.arch,
        "seed": step.seed,
        "percent": step.percent,
        "sparsity": sparsity(checkpoint.mask),
        **measured,
        "train_loss": rows[-1]["train_loss"] if rows else None,
        **counted,
        "epochs": step.epochs,
        "seconds": journal.elapsed(),
        "before": before,
    }
