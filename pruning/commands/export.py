"""`stage=export`: a result as files that can be stored, run elsewhere and read."""

from pathlib import Path
from typing import Any

from pruning import data, report
from pruning.commands.source import source_of
from pruning.commands.ways import Ways
from pruning.env import Env
from pruning.errors import UserError, naming
from pruning.export.card import Product
from pruning.export.loading import load
from pruning.export.product import ExportSettings, export, rows
from pruning.pipeline import plan, results
from pruning.runs import Run
from pruning.tracking import reporter


def run(config: dict[str, Any], ways: Ways) -> None:
    """Export what `resume=` names, or the result that the config asks for, which is made if it is missing."""
    env = Env.from_config(config.get("env"))
    settings = ExportSettings.read(config.get("export", {}), "export")
    settings.check_installed()
    env.prepare()
    resume = config.get("resume")
    made, path = source_of(resume, env.runs) if resume is not None else _planned(config, env, ways)
    product, out = _product(made, path, env, settings)
    out = settings.out or out
    tell = reporter()
    with naming("export"):
        files, dense = export(product, out, settings, tell.work)
    table = report.text(rows(files, dense, out), ("file", "bytes", "of dense float32"))
    tell.note(f"\n{table}\n\ndense float32 weights: {dense:,} bytes")


def _planned(config: dict[str, Any], env: Env, ways: Ways) -> tuple[Run, Path]:
    """Return the run of the result that the config asks for; make it first where it is missing."""
    wanted = {**config, "stage": {"name": results.PRODUCT}}
    step = plan.chain(wanted, env, progress=reporter().work)[-1]
    found = Run.for_step(step, env.runs)
    if not found.finished():
        if ways.make is None:
            raise UserError(f"{step.name} is not done yet: run this command with stage={results.PRODUCT} first")
        ways.make(wanted)
    return found, found.model


def _product(made: Run | None, path: Path, env: Env, settings: ExportSettings) -> tuple[Product, Path]:
    """Return what to export, and where to unless that is given."""
    if made is None:
        with naming(keys={"path": "resume"}):
            checkpoint = load(path)
        name = path.resolve().name
        size = settings.size or (32, 32)
        return Product(checkpoint, name, None, (size[0], size[1])), env.runs / "export" / name.partition(".")[0]
    result = made.finished()
    checkpoint = load(made.model, result.get("model_sha256") if result else None)
    height, width = settings.size or _size(made, env)
    return Product(checkpoint, made.path.resolve().name, made, (height, width)), made.path / "export"


def _size(made: Run, env: Env) -> tuple[int, int]:
    """Return the height and width of the images of the run's dataset."""
    if (step := made.step()) is None or step.root is None:
        return (32, 32)
    settings = data.DatasetSettings.at({k: v for k, v in step.dataset.items() if k in ("name", "size")}, step.root)
    try:
        return data.info(settings, cache=env.data).size or (32, 32)
    except UserError as error:
        raise UserError(f"{error}; export.size=[HEIGHT,WIDTH] says the size of the images instead") from None
