"""Which results a report is on, what names their methods, and what command makes more of them."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from pruning.data import DATASETS
from pruning.errors import UserError
from pruning.runs import Run
from pruning.settings.settings import own_fields
from pruning.stages import STAGES
from pruning.summary.cells import Cell, Entry, cells, filled, plain


def defaults() -> dict[str, Any]:
    """Return the neutral values of the stages' settings, under their names on the command line."""
    return {
        f"{name}.{stage.recipe.KEYS.get(f.name, f.name)}": f.default
        for name, stage in STAGES.items()
        for f in own_fields(stage.recipe)
        if f.default is not MISSING and f.name != "precision"
    }


def fits(settings: Mapping[str, Any], where: Mapping[str, Any] | None) -> bool:
    """Return whether the settings are those of `where`; a list there allows each of its values."""
    for key, value in (where or {}).items():
        wanted = [plain(each) for each in (value if isinstance(value, list) else [value])]
        if plain(settings.get(key)) not in wanted:
            return False
    return True


def selected(entries: Sequence[Entry], where: Mapping[str, Any] | None) -> list[Entry]:
    """Return the entries that have the settings `where`; UserError if none has such a setting."""
    neutral = defaults()
    whole = [(entry, filled(entry, neutral)) for entry in entries]
    for key in where or {}:
        if whole and not any(key in settings for _, settings in whole):
            raise UserError(f"report.where must name settings that results have, got {key}")
    return [entry for entry, settings in whole if fits(settings, where)]


def grouped(entries: Sequence[Entry], by: str | None) -> list[Cell]:
    """Return the cells; UserError if `by` is no setting, or other settings than that differ too."""
    axes = [f"{name}.{axis}" for name, stage in STAGES.items() if stage.prunes for axis in [*stage.recipe.axes()][:1]]
    neutral = defaults()
    found = cells(entries, neutral, [by] if by else axes)
    if by and found and not any(by in filled(cell.first, neutral) for cell in found):
        raise UserError(f"report.by must name a setting that results have, got {by}")
    for cell in found if by else ():
        names = [word.partition("=")[0] for word in cell.method.split(" ")]
        if others := [name for name in names if "." in name and name != by]:
            text = f"report.by must name all that differs, but {others[0]} differs too: choose by report.where"
            raise UserError(text)
    return found


def places(run: Run) -> dict[str, Any]:
    """Return where the run's images, and the source of its network, were found, as on the command line."""
    if (step := run.step()) is None:
        return {}
    found: dict[str, Any] = {}
    if step.root is not None:
        found[f"dataset.{DATASETS[step.dataset['name']].key}"] = step.root
    if step.arch_place and Path(step.arch_place).suffix == ".py":
        found["arch.file"] = step.arch_place
    return found


def overrides(cell: Cell, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to give on the command line for this cell, beside what `config` has already."""
    whole = filled(cell.first, defaults()) | places(cell.first.run)
    elsewhere = "arch._target_" in whole  # its name may be no choice of conf/arch
    found: dict[str, Any] = {"dataset": whole["dataset"], "arch.name" if elsewhere else "arch": whole["arch"]}
    found |= {key: whole[key] for key in ("stage", "resume") if key in whole}
    for key in (key for key in whole if "." in key):
        stage, _, name = key.partition(".")
        value = list(whole[key]) if isinstance(whole[key], tuple) else whole[key]
        if (config.get(stage) or {}).get(name, MISSING) != value:
            found[key] = value
    return found


def usual(cells: Sequence[Cell]) -> dict[tuple[str, str], str]:
    """Return, by dataset and network, the method that prunes by the fewest settings of its own; else the first."""
    found: dict[tuple[str, str], tuple[int, str]] = {}
    for cell in cells:
        keys = [key for key in cell.first.settings if not key.endswith(".percent")]
        own = sum(STAGES[stage].prunes for stage in (key.partition(".")[0] for key in keys) if stage in STAGES)
        dataset, network, method = cell.curve
        found[dataset, network] = min(found.get((dataset, network), (own, method)), (own, method))
    return {family: method for family, (_, method) in found.items()}
