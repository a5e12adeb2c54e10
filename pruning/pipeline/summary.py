"""The report on a directory of runs: the answer in words, tables, curves, and what could not be counted."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from pruning import report
from pruning.errors import UserError
from pruning.files import write_whole
from pruning.pipeline.sweep import flatten, plain
from pruning.report.answer import answer, command_of
from pruning.report.cells import Cell, Entry, cells, filled, gather, pruned
from pruning.report.curves import draw
from pruning.report.numbers import SHORT, as_csv, as_latex, as_markdown, numbers, shown
from pruning.runs import Step, StepState, statuses
from pruning.runs.records import recorded_sweeps
from pruning.settings import Settings, setting
from pruning.settings.settings import own_fields
from pruning.stages import STAGES

LISTED = 20  # problems that the terminal shows; report.md has them all


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Settings):
    """The node `report`; nothing of it is part of an id."""

    where: Mapping[str, Any] | None = None  # only results with these settings; a list: any of these values
    by: str | None = None  # the setting that names the methods
    out: Path | None = None  # None: `report` in env.runs
    tolerance: float = setting(0.5, above=0)  # points of top-1


def defaults() -> dict[str, Any]:
    """Return the neutral values of the stages' settings, under their names on the command line."""
    return {
        f"{name}.{stage.recipe.KEYS.get(f.name, f.name)}": f.default
        for name, stage in STAGES.items()
        for f in own_fields(stage.recipe)
        if f.default is not MISSING and f.name != "precision"
    }


def selected(entries: Sequence[Entry], where: Mapping[str, Any] | None) -> list[Entry]:
    """Return the entries that have the settings `where`; UserError if none has such a setting."""
    whole = [(entry, filled(entry, defaults())) for entry in entries]
    for key, value in (where or {}).items():
        if whole and not any(key in settings for _, settings in whole):
            raise UserError(f"report.where must name settings that results have, got {key}")
        wanted = [plain(each) for each in (value if isinstance(value, list) else [value])]
        whole = [(entry, settings) for entry, settings in whole if plain(settings.get(key)) in wanted]
    return [entry for entry, _ in whole]


def missing(runs: Path) -> list[str]:
    """Return a sentence on each step of the recorded sweeps that is not done though something wants it."""
    sweeps, damaged = recorded_sweeps(runs)
    steps: dict[str, Step] = {step.id: step for sweep in sweeps for step in sweep.steps}
    found, settings = statuses([*steps.values()], runs), flatten([*steps.values()])
    waited: dict[str, bool] = {}  # by the id of a parent: whether what starts from it is not done
    for step in steps.values():
        if step.parent:
            waited[step.parent] = waited.get(step.parent, False) or found[step.id].state != StepState.DONE
    lines = [f"not read: {error}" for error in damaged]
    for id, step in steps.items():
        if found[id].state != StepState.DONE and waited.get(id, True):
            about = " ".join(f"{key}={value}" for key, value in settings[id].items() if not key.startswith("_"))
            lines.append(f"{found[id].state}, not counted: {step.name} ({about})")
    return lines


def grouped(entries: Sequence[Entry], by: str | None) -> list[Cell]:
    """Return the cells; UserError if `by` is no setting, or other settings than that differ too."""
    axes = [f"{name}.{axis}" for name, stage in STAGES.items() if stage.prunes for axis in [*stage.recipe.axes()][:1]]
    found = cells(entries, defaults(), [by] if by else axes)
    if by and found and not any(by in filled(cell.first, defaults()) for cell in found):
        raise UserError(f"report.by must name a setting that results have, got {by}")
    for cell in found if by else ():
        names = [word.partition("=")[0] for word in cell.method.split(" ")]
        if others := [name for name in names if "." in name and name != by]:
            raise UserError(
                f"report.by must name all that differs, but {others[0]} differs too: choose by report.where"
            )
    return found


def make_report(runs: Path, settings: ReportSettings, config: Mapping[str, Any] | None = None) -> str:
    """Write the report and return what the terminal shows of it, the path last."""
    out = settings.out or runs / "report"
    gathered = gather(runs, out)
    found = grouped(selected(pruned(gathered), settings.where), settings.by)

    def command(cell: Cell, seeds: Sequence[int]) -> str | None:
        return (
            None if cell.first.level > 1 else command_of(overrides(cell, config or {}) | {"env.runs": str(runs)}, seeds)
        )

    words = answer(found, settings.tolerance, command) or f"nothing that was pruned is done in {runs}"
    problems = [*gathered.problems, *missing(runs)]
    rows = numbers(found)
    out.mkdir(parents=True, exist_ok=True)
    listed = "".join(f"- {problem}\n" for problem in problems) or "- nothing\n"
    text = f"# Report\n\n```\n{words}\n```\n\n{as_markdown(rows)}\n## Not counted\n\n{listed}"
    for name, content in (("cells.csv", as_csv(rows)), ("cells.tex", as_latex(rows)), ("report.md", text)):
        write_whole(out / name, content.encode())
    draw(found, out)
    shorter = [tuple(shown(row[title]) for title in ("dataset", "network", *SHORT)) for row in rows]
    blocks = [words, *([report.text(shorter, ("dataset", "network", *SHORT))] if rows else [])]
    if problems:
        more = [f"... and {len(problems) - LISTED} more, in report.md"] if len(problems) > LISTED else []
        blocks.append("\n".join(["not counted:", *(f"  {each}" for each in [*problems[:LISTED], *more])]))
    return "\n\n".join([*blocks, f"report: {out}"])


def overrides(cell: Cell, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to give on the command line for this cell, beside what the composed `config` has already.

    Another dataset has another recipe: there everything is given, neutral values too.
    """
    first, neutral = cell.first, defaults()
    whole = filled(first, neutral)
    node = config.get("dataset")
    same = isinstance(node, Mapping) and node.get("name") == first.result["dataset"]
    found: dict[str, Any] = {key: whole[key] for key in ("dataset", "arch", "stage", "resume") if key in whole}
    for key in (key for key in whole if "." in key):
        stage, _, name = key.partition(".")
        value = list(whole[key]) if isinstance(whole[key], tuple) else whole[key]
        composed = (config.get(stage) or {}).get(name) if same else MISSING
        if composed != value:
            found[key] = value
    return found


def report_text(config: Mapping[str, Any], runs: Path) -> str:
    """Make the report that a composed config asks for; return what the terminal shows."""
    return make_report(runs, ReportSettings.read(config.get("report", {}), "report"), config)


def report_after(runs: Path) -> str:
    """Make the report at the end of a sweep; whatever is wrong with it is a line, and no error of the sweep."""
    try:
        return "\n" + make_report(runs, ReportSettings())
    except Exception as error:
        return f"\nno report was made ({type(error).__name__}: {error}); python main.py stage=report tries again"
